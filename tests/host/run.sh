# Runs in the host of the tests: each case that 'todo' names, in order, and writes what came of it to 'results'.
#
# A case is a script of its own, run with 'lib.sh' read in. It ends with status 0, or 77 where it cannot run here, or 194 to
# be run again after a reboot of the host, with PHASE one higher.
set -u
tests=/mnt/tests
export tests

if [ ! -e /var/lib/tests-installed ]; then
    cp -a $tests/package/. /
    systemctl daemon-reload
    touch /var/lib/tests-installed
fi
# Everything the boot was to start.
systemctl is-system-running --wait >/dev/null 2>&1

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
