# A nested virtual machine: libvirt's profile for QEMU confines it.
# boots: apparmor
export VIRT_SANDBOX_VIRT_TYPE=qemu
uri=qemu:///system
check "libvirt's driver is there" virsh -c $uri version
shown sh -c "virsh -c $uri capabilities | grep -A5 secmodel"
profile_of() {
    cut -d' ' -f1 /proc/"$(cat /run/libvirt/qemu/"$1".pid)"/attr/current
}
# Ignore denials of other cases.
seen=$(wc -l </var/log/audit/audit.log)
begin=$(date +%s)
is "one command" "uid=0(root) gid=0(root) groups=0(root)" virt-sandbox -c $uri --start-timeout 3000 -- id
note "it took $(($(date +%s) - begin)) s"
shown sh -c 'grep DENIED /var/log/audit/audit.log | grep "libvirt-" | tail -20'
is "a directory that is given" given sh -c "mkdir -p /root/d; echo given >/root/d/f; virt-sandbox -c $uri --start-timeout 3000 -m host-bind:/data=/root/d -- cat /data/f"
check "create" virt-sandbox-service -c $uri create -u apache2.service --timeout 900 vm
check "start" systemctl start vm_sandbox
is "it is active" active systemctl is-active vm_sandbox
is "its QEMU is confined" "libvirt-$(virsh -c $uri domuuid vm | head -n 1)" profile_of vm
check "it answers" soon answers vm
is "execute" vm virt-sandbox-service execute vm -- hostname
says "machined has it" vm machinectl list --no-legend
check "stop" systemctl stop vm_sandbox
check "delete" virt-sandbox-service delete vm
shown sh -c 'grep DENIED /var/log/audit/audit.log | grep -v libvirt_leaseshelper | tail -40'
refuse "nothing it needs was denied" sh -c "tail -n +$((seen + 1)) /var/log/audit/audit.log | grep 'apparmor=\"DENIED\"' | grep 'profile=\"libvirt-'"
is "no profile is left" "" sh -c 'grep "^libvirt-" /sys/kernel/security/apparmor/profiles'
check "nothing is left" clean
