# Other actions of the host's systemd on a sandbox's unit.
check "create" virt-sandbox-service create -u apache2.service web1
for unit in libvirtd.socket network.target virt-guest-shutdown.target; do
    says "it comes after $unit" "$unit" systemctl show -P After web1_sandbox
done
is "it wants the daemons that this host uses" libvirtd.socket sh -c \
    "systemctl show -P Wants web1_sandbox | tr ' ' '\\n' | grep -E '^(libvirt|virt.*d\\.)'"
refuse "it waits for nobody's network" printed network-online.target systemctl show -P After web1_sandbox
check "create one at an address of the host" virt-sandbox-service create -u nginx.service --publish 192.0.2.1:8082:80 --on-demand ng
says "that waits for the host's network" network-online.target systemctl show -P After ng_sandbox
says "and has it brought up" network-online.target systemctl show -P Wants ng_sandbox
check "its socket needs no address yet" systemctl start ng_sandbox.socket
check "it listens no more" systemctl stop ng_sandbox.socket
# Another process has its port.
ip address add 192.0.2.1/32 dev lo
python3 -m http.server 8082 --bind 192.0.2.1 >/dev/null 2>&1 &
other=$!
check "somebody listens there" soon curl -s -o /dev/null http://192.0.2.1:8082/
refuse "its socket says so" systemctl start ng_sandbox.socket
check "delete it" virt-sandbox-service delete --force ng
refuse "nothing is left of what failed" printed . systemctl list-units --all --plain --no-legend 'ng_sandbox*'
kill $other
ip address del 192.0.2.1/32 dev lo

check "start" systemctl start web1_sandbox
pid=$(systemctl show -P MainPID web1_sandbox)
check "systemd reads its units again" systemctl daemon-reload
check "systemd starts itself again" systemctl daemon-reexec
is "the sandbox does not notice" "$pid" systemctl show -P MainPID web1_sandbox
is "its status is kept" active systemctl is-active web1_sandbox
check "it answers" answers web1
check "restart after that" systemctl restart web1_sandbox
check "systemd tells what it uses" test "$(systemctl show -P MemoryCurrent web1_sandbox)" -gt 0

# Its NIC keeps the configured MAC address; udev does not change it.
mac=$(virsh -c lxc:/// dumpxml web1 | sed -n "s/.*<mac address='\(.*\)'.*/\1/p")
is "its NIC has its own address" "$mac" virt-sandbox-service execute web1 -- cat /sys/class/net/eth0/address
was=$(address web1)
check "restart" systemctl restart web1_sandbox
is "it gets the same lease" "$was" address web1

# The host can read its journal, and no link leads from the host's journals into it.
id=$(virt-sandbox-service execute web1 -- cat /etc/machine-id)
says "logs" "Started apache2.service" virt-sandbox-service logs -u apache2 web1
refuse "its journal is not linked" test -e "/var/log/journal/$id"
refuse "the host's own journal has none of it" printed . journalctl --no-pager -q "_MACHINE_ID=$id"

# Signals.
check "end it by a signal" systemctl kill -s TERM web1_sandbox
check "it is stopped, not failed" soon sh -c '[ "$(systemctl is-active web1_sandbox)" = inactive ]'
says "its units were stopped in order" "Stopped apache2.service" virt-sandbox-service logs web1 -n 100
says "libvirt says so, too" "shut off" virsh -c lxc:/// domstate web1
check "start" systemctl start web1_sandbox
leader=$(virsh -c lxc:/// domid web1)
check "kill its domain" kill -KILL "$leader"
check "it is started again" soon sh -c '[ "$(systemctl show -P NRestarts web1_sandbox)" -gt 0 ] && systemctl is-active web1_sandbox'
check "it answers" answers web1

# libvirt restarts and crashes.
check "libvirtd restarts" systemctl restart libvirtd.service
check "libvirtd dies" systemctl kill -s KILL libvirtd.service
check "the sandbox runs on" answers web1
check "reload" systemctl reload web1_sandbox
is "it is active" active systemctl is-active web1_sandbox
check "stop" systemctl stop web1_sandbox
is "it is stopped" inactive systemctl is-active web1_sandbox
# libvirt is stopped: a command on a sandbox starts it.
check "libvirt stops" systemctl stop libvirtd.service
check "start has it started" systemctl start web1_sandbox
check "it answers" answers web1
# machined restarts.
check "machined restarts" systemctl restart systemd-machined
says "it still has the sandbox" web1 machinectl list --no-legend
machine=$(machinectl list --no-legend | cut -d' ' -f1)
check "machinectl ends it" machinectl terminate "$machine"
check "it is started again" soon sh -c '[ "$(systemctl show -P NRestarts web1_sandbox)" -gt 0 ] && systemctl is-active web1_sandbox'
check "delete" virt-sandbox-service delete --force web1
check "nothing is left" clean
shown leftovers
