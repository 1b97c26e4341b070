# The host's unit of a sandbox: systemctl starts, stops, restarts and reloads it, and shows its state.
check "create" virt-sandbox-service create -u apache2.service web1
check "the unit is there" test -e /etc/systemd/system/web1_sandbox.service
check "systemd knows it without being told" systemctl cat web1_sandbox.service
is "it does not run" inactive systemctl is-active web1_sandbox
is "nor at boot" disabled systemctl is-enabled web1_sandbox
check "systemd finds no fault in it" systemd-analyze verify web1_sandbox.service
check "start" systemctl start web1_sandbox
check "it answers as soon as 'start' is back" answers web1
is "it is active" active systemctl is-active web1_sandbox
says "its status tells what it waits for" "are active" systemctl status --no-pager web1_sandbox
says "virt-sandbox-service says so, too" running virt-sandbox-service list
says "machined has it" web1 machinectl list --no-legend
says "machined has the leader" "Leader" machinectl show --no-pager lxc-"$(virsh -c lxc:/// domid web1)"-web1
shown systemctl status --no-pager web1_sandbox
shown machinectl status --no-pager "$(machinectl list --no-legend | cut -d' ' -f1)"
shown systemd-cgls --no-pager
shown journalctl --no-pager -u web1_sandbox
says "its journal is the unit's" "Apache" journalctl --no-pager -u web1_sandbox
says "logs" "Apache" virt-sandbox-service logs web1
pid=$(systemctl show -P MainPID web1_sandbox)
check "reload" systemctl reload web1_sandbox
says "the units inside were reloaded" "Reloaded" virt-sandbox-service logs web1
check "it still answers" answers web1
is "it was not restarted" "$pid" systemctl show -P MainPID web1_sandbox
check "restart" systemctl restart web1_sandbox
check "it answers again" answers web1
check "stop by our command" virt-sandbox-service stop web1
is "systemd knows" inactive systemctl is-active web1_sandbox
check "start by our command" virt-sandbox-service start web1
is "systemd knows" active systemctl is-active web1_sandbox
refuse "start what runs" virt-sandbox-service start web1
# With a daemon that its socket starts, and that is idle.
echo 'LIBVIRTD_ARGS="--timeout 5"' >>/etc/default/libvirtd
check "libvirt's daemon would end soon" systemctl restart libvirtd web1_sandbox
sleep 30
check "stop" systemctl stop web1_sandbox
is "it is stopped, not failed" inactive systemctl is-active web1_sandbox
says "libvirt says so, too" "shut off" virsh -c lxc:/// domstate web1
check "delete" virt-sandbox-service delete web1
check "nothing is left" clean
shown leftovers
