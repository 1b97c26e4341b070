# Enabled sandboxes start with the host, and stop in order when it shuts down.
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
        # libvirt-guests.service must find nothing left to do at shutdown.
        printf '%s\n' 'URIS="lxc:///"' ON_SHUTDOWN=shutdown ON_BOOT=start SHUTDOWN_TIMEOUT=600 >/etc/default/libvirt-guests
        check "libvirt-guests" systemctl enable --now libvirt-guests.service
        shown systemctl list-dependencies --no-pager --after s1_sandbox.service
        # A sandbox that is stopped in order says so in its own journal.
        reboot_host
        ;;
    2)
        says "the one that ran was stopped cleanly by the shutdown" "Stopped apache2.service" \
            virt-sandbox-service logs s1
        shown journalctl --no-pager -b -1 -u s1_sandbox
        # Only this shutdown counts; the sandbox's own systemd logs similar lines for its units.
        said() {
            journalctl --no-pager -q -b -1 -o short-unix _PID=1
        }
        at() {
            said | grep "$1" | tail -n 1 | cut -d' ' -f1 | tr -d .
        }
        first_after() {
            said | grep "$2" | cut -d' ' -f1 | tr -d . | awk -v "t=$1" '$1 >= t' | head -n 1
        }
        shown sh -c 'journalctl --no-pager -b -1 -o short-precise | grep -E "s1_sandbox|libvirt|virt-guest|network|dbus.service|machined|Shutting" | tail -n 60'
        asked=$(at "Stopping s1_sandbox.service") stopped=$(at "Stopped s1_sandbox.service")
        check "it was asked before libvirtd" test "$asked" -le "$(at 'Stopping libvirtd.service')"
        check "it was gone before libvirtd" test "$stopped" -le "$(at 'Stopped libvirtd.service')"
        check "and before its scope was taken away" test "$stopped" -le "$(first_after "$asked" 'Unmounting\|Reached target umount.target\|Unmounted')"
        refuse "nobody was killed for taking too long" printed "State 'stop-.*' timed out\|did not stop within" \
            journalctl --no-pager -q -b -1 -u s1_sandbox -u libvirtd -u 'machine-*.scope' -u libvirt-guests
        check "libvirt-guests has done no harm" sh -c '! systemctl is-failed libvirt-guests.service'
        shown journalctl --no-pager -u libvirt-guests
        for name in $many; do
            check "$name is active" soon systemctl is-active ${name}_sandbox
            check "$name answers" answers $name
        done
        shown systemctl --failed --no-pager
        check "libvirt has each once" test "$(virsh -c lxc:/// list --name | grep -c .)" = 10
        check "each was started by its unit" sh -c '! systemctl show -P NRestarts "s*_sandbox.service" | grep -v "^0$" | grep .'
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
        systemctl disable -q --now libvirt-guests.service
        check "nothing is left" clean
        shown leftovers
        ;;
esac
