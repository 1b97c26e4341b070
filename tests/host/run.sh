# Runs in the test host: runs each case that 'todo' names, in order, and writes its result to 'results'.
#
# A case is a script that runs after 'lib.sh' is sourced. It exits with 0, or with 77 if it cannot run here, or with 194 to
# run again after a reboot of the host, with PHASE one higher.
set -u
tests=/mnt/tests
export tests

if [ ! -e /var/lib/tests-installed ]; then
    # Files get the labels of their paths.
    cp -R --no-dereference --preserve=mode,timestamps $tests/package/. /
    ! selinuxenabled 2>/dev/null || restorecon -R /usr/bin /usr/libexec /usr/share/virt-sandbox
    systemctl daemon-reload
    systemd-tmpfiles --create virt-sandbox.conf
    touch /var/lib/tests-installed
fi
# Wait until the boot has started everything.
systemctl is-system-running --wait >/dev/null 2>&1

# The policy forbids mounting the test share at boot, so it is enforced only from here on.
! selinuxenabled 2>/dev/null || setenforce 1

mkdir -p /var/lib/tests
export CASE_SECONDS=${CASE_SECONDS:-5400}
while read -r case <&3; do
    ! grep -q "^$case	" $tests/results 2>/dev/null || continue
    log=$tests/logs/$case.log
    phase_file=/var/lib/tests/$case.phase
    PHASE=$(cat "$phase_file" 2>/dev/null || echo 1)
    CASE=$case
    export PHASE CASE
    begin=$(cut -d. -f1 /proc/uptime)
    since=$(date +%s)
    echo "case $case phase $PHASE" >/dev/ttyS0
    [ "$PHASE" = 1 ] && : >"$log"
    (cd /root && exec timeout -k 10 ${CASE_SECONDS:-5400} sh -c '. $tests/scripts/lib.sh; . "$1"; finish' "$case" "$tests/scripts/cases/$case.sh") >>"$log" 2>&1 </dev/null
    status=$?
    spent=$(($(cut -d. -f1 /proc/uptime) - begin))
    spent=$((spent + $(cat /var/lib/tests/$case.spent 2>/dev/null || echo 0)))
    journalctl --since "@$since" --no-pager -o short-monotonic >>$tests/logs/$case.journal 2>&1
    if [ $status = 194 ]; then
        echo $((PHASE + 1)) >"$phase_file"
        echo $spent >/var/lib/tests/$case.spent
        sync
        systemctl --no-block reboot
        exit
    fi
    case $status in
        0) result=ok ;;
        77) result=SKIP ;;
        124) result=FAILED; echo "FAIL: no end within ${CASE_SECONDS:-5400} s" >>"$log" ;;
        *) result=FAILED ;;
    esac
    printf '%s\t%s\t%s\n' "$case" $result $spent >>$tests/results
done 3<$tests/todo
sync
systemctl --no-block poweroff
