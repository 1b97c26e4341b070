# More services, with cgroup v2 only.
# boots: plain apparmor

# asks ADDRESS NAME: the DNS server at ADDRESS resolves NAME.
asks() {
    python3 - "$1" "$2" <<'PROGRAM'
import socket, struct, sys
question = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[2].split(".")) + b"\0" + struct.pack(">HH", 1, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
for attempt in range(6):
    s.sendto(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + question, (sys.argv[1], 53))
    try:
        answer = s.recv(512)
        break
    except socket.timeout:
        pass
flags, _, answers = struct.unpack(">HHH", answer[2:8])
assert flags & 15 == 0 and answers > 0, answer
PROGRAM
}

# try UNIT NAME: a sandbox of UNIT starts completely.
try() {
    check "create $1" virt-sandbox-service create -u "$1" --timeout 600 "$2"
    check "start $1" virt-sandbox-service start "$2"
    is "systemd inside is content with $1" running virt-sandbox-service execute "$2" -- systemctl is-system-running --wait
    shown virt-sandbox-service execute "$2" -- systemctl --failed --no-pager --plain
}

# over NAME…: delete sandboxes that are no longer needed.
over() {
    for name; do
        check "delete $name" virt-sandbox-service delete --force $name
    done
}

try nginx.service ng
check "nginx answers" answers ng
try redis-server.service re
is "redis answers" PONG virt-sandbox-service execute re -- redis-cli ping
over ng re
try postgresql.service pg
says "postgresql answers" "1 row" virt-sandbox-service execute pg -- su postgres -c 'psql -c "select 1"'
over pg
try mariadb.service ma
is "mariadb answers" 42 virt-sandbox-service execute ma -- mysql -Nse 'select 6*7'
over ma
try unbound.service un
check "unbound answers" virt-sandbox-service execute un -- sh -c 'ss -lun | grep -q 127.0.0.1:53'
over un
echo "address=/tests.test/192.0.2.42" >/etc/dnsmasq.d/tests.conf
try dnsmasq.service dn
check "dnsmasq answers" asks "$(address dn)" tests.test
rm /etc/dnsmasq.d/tests.conf
says "what sets the host's clock is refused" "CAP_SYS_TIME.*--cap-add" virt-sandbox-service create -u chrony.service ch

# All hardening options of units at once.
bounded() {
    virt-sandbox-service execute dn -- systemd-run --quiet --wait --pipe "$@"
}
is "a unit bounded in every way" "through" bounded -p DynamicUser=yes -p StateDirectory=all -p ProtectSystem=strict -p ProtectHome=yes \
    -p PrivateTmp=yes -p PrivateDevices=yes -p PrivateNetwork=yes -p PrivateUsers=yes -p PrivateIPC=yes -p ProtectHostname=yes \
    -p ProtectClock=yes -p ProtectKernelTunables=yes -p ProtectKernelModules=yes -p ProtectKernelLogs=yes -p ProtectControlGroups=yes \
    -p ProtectProc=invisible -p ProcSubset=pid -p RestrictNamespaces=yes -p RestrictRealtime=yes -p RestrictSUIDSGID=yes \
    -p LockPersonality=yes -p MemoryDenyWriteExecute=yes -p SystemCallFilter=@system-service -p SystemCallArchitectures=native \
    -p RestrictAddressFamilies=AF_UNIX -p CapabilityBoundingSet= -p NoNewPrivileges=yes -p DevicePolicy=closed -p UMask=0077 \
    -p RemoveIPC=yes -p KeyringMode=private sh -c 'cd $STATE_DIRECTORY && echo through >x && cat x'
check "one with a root of its own" bounded -p TemporaryFileSystem=/var -p BindReadOnlyPaths=/usr -p InaccessiblePaths=/srv \
    -p MountAPIVFS=yes true
check "one that is given a credential" bounded -p SetCredential=a:b sh -c 'test "$(cat $CREDENTIALS_DIRECTORY/a)" = b'
check "one with limits" bounded -p MemoryMax=64M -p MemoryHigh=48M -p TasksMax=20 -p CPUQuota=50% -p CPUWeight=20 -p IOWeight=20 true
refuse "its memory is its own fault" bounded -p MemoryMax=20M -p MemorySwapMax=0 sh -c 'head -c 100M /dev/zero | tail -c 99M >/dev/null'
check "the sandbox goes on" virt-sandbox-service execute dn -- true
says "more processes than it may" "fork\|Cannot\|temporarily" bounded -p TasksMax=5 sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 3 & done; wait'
for unit in systemd-hostnamed systemd-timedated systemd-localed systemd-logind; do
    check "$unit" virt-sandbox-service execute dn -- systemctl start $unit
done
# Only the expected units have failed.
check "failures are forgotten" virt-sandbox-service execute dn -- systemctl reset-failed
is "systemd inside is content with all that" running virt-sandbox-service execute dn -- systemctl is-system-running
shown virt-sandbox-service execute dn -- systemctl --failed --no-pager --plain
over dn
check "nothing is left" clean
shown leftovers
