# Sandboxes that are enabled start with the host, and stop with it in order.
many="s1 s2 s3 s4 s5 s6 s7 s8 s9 s10"
case $PHASE in
    1)
        check "create" virt-sandbox-service create -u apache2.service --memory 128M --timeout 900 s1
        for name in ${many#s1}; do
            check "clone $name" virt-sandbox-service clone s1 $name
        done
        for name in $many; do
            check "enable $name" systemctl enable ${name}_sandbox
        done
        check "start the first" systemctl start s1_sandbox
        # What is stopped as it should be says so in its own journal.
        reboot_host
        ;;
    2)
        says "the one that ran was stopped cleanly by the shutdown" "Stopped apache2.service" \
            virt-sandbox-service logs s1 --since "30 min ago"
        shown journalctl --no-pager -b -1 -u s1_sandbox
        for name in $many; do
            check "$name is active" later systemctl is-active ${name}_sandbox
            check "$name answers" answers $name
        done
        shown systemctl --failed --no-pager
        shown systemd-analyze critical-chain s10_sandbox.service --no-pager
        is "nothing has failed" "" systemctl list-units --plain --no-legend --failed '*_sandbox*'
        shown virt-sandbox-service stats
        shown free -m
        for name in $many; do
            systemctl disable -q ${name}_sandbox
        done
        check "stop all at once" systemctl stop '*_sandbox.service'
        for name in $many; do
            check "delete $name" virt-sandbox-service delete $name
        done
        check "nothing is left" clean
        shown leftovers
        ;;
esac
