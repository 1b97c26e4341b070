# Shared functions of the cases. A failed check does not end a case.

failures=0

# check TEXT COMMAND…: COMMAND succeeds.
check() {
    text=$1
    shift
    if output=$("$@" 2>&1); then
        echo "ok: $text"
    else
        status=$?
        failures=$((failures + 1))
        echo "FAIL: $text"
        printf '  $ %s (status %s)\n' "$*" $status
        printf '%s\n' "$output" | sed 's/^/  | /' | head -n 60
    fi
}

# refuse TEXT COMMAND…: COMMAND fails.
refuse() {
    text=$1
    shift
    check "$text" fails "$@"
}

fails() {
    if "$@"; then
        echo "it succeeded: $*"
        return 1
    fi
}

# is TEXT EXPECTED COMMAND…: COMMAND prints EXPECTED.
is() {
    text=$1 expected=$2
    shift 2
    got=$("$@" 2>&1)
    check "$text" test "$got" = "$expected"
    [ "$got" = "$expected" ] || echo "  | got: $got"
}

# says TEXT PATTERN COMMAND…: a line of COMMAND's output matches PATTERN, a basic regular expression.
says() {
    text=$1 pattern=$2
    shift 2
    check "$text" printed "$pattern" "$@"
}

printed() {
    pattern=$1
    shift
    got=$("$@" 2>&1)
    printf '%s\n' "$got" | grep -q -e "$pattern" || { printf '%s\n' "$got"; return 1; }
}

# soon COMMAND…: COMMAND succeeds after a while; a busy machine may take minutes.
soon() {
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.5
    done
    "$@"
}

# Prints the first address of a sandbox.
address() {
    virt-sandbox-service list --format json | tr -d ' \n' |
        sed -n 's/.*"name":"'"$1"'"[^}]*"addresses":\["\([0-9.]*\).*/\1/p'
}

# Succeeds if a sandbox answers on port 80.
answers() {
    curl -sS --max-time 120 -o /dev/null "http://$(address "$1"):${2:-80}/"
}

note() {
    echo "note: $*"
}

# shown COMMAND…: print COMMAND's output for readers of the log.
shown() {
    echo "\$ $*"
    "$@" 2>&1 | sed 's/^/  | /' | head -n "${LINES_SHOWN:-40}"
}

skip() {
    echo "SKIP: $*"
    exit 77
}

reboot_host() {
    [ $failures = 0 ] || echo $failures >/var/lib/tests/$CASE.failures
    exit 194
}

# Prints leftovers of sandboxes on the host; fails if there are none.
leftovers() {
    {
        find /sys/fs/cgroup -type d \( -name 'machine-lxc*' -o -name 'virt-sandbox-*' \)
        grep -E '/var/lib/libvirt/filesystems|libvirt-sandbox' /proc/self/mountinfo | grep -v ' /mnt/tests'
        ls -d /var/lib/libvirt/filesystems/* /etc/libvirt-sandbox/services/* /etc/systemd/system/*_sandbox* \
            /etc/systemd/system/*/*_sandbox* /var/lib/libvirt-sandbox/*/* 2>/dev/null
        systemctl list-units --all --plain --no-legend '*_sandbox*' 'machine-lxc*'
        virsh -c lxc:/// list --all --name | grep .
        machinectl list --no-legend --no-pager
    } | grep .
}

clean() {
    if left=$(leftovers); then
        echo "$left"
        return 1
    fi
}

finish() {
    before=$(cat /var/lib/tests/$CASE.failures 2>/dev/null || echo 0)
    [ $((failures + before)) = 0 ]
    exit
}
