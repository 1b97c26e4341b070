# A nested virtual machine with SELinux enforcing: it and its files have a domain and categories of their own.
# boots: selinux
export VIRT_SANDBOX_VIRT_TYPE=qemu
uri=qemu:///system
tree=/var/lib/libvirt/filesystems/vm
is "SELinux denies" Enforcing getenforce
label() {
    tr -d '\0' </proc/"$(cat /run/libvirt/qemu/vm.pid)"/attr/current
}
# This policy has no separate type for emulated machines.
says "what emulation needs is said" "setsebool -P virt_use_execmem on" virt-sandbox -c $uri --timeout 60 -- true
check "an emulated machine may be one" setsebool virt_use_execmem on
check "create" virt-sandbox-service -c $uri create -u apache2.service --timeout 900 vm
check "start" systemctl start vm_sandbox
says "it has two categories" ':svirt[a-z_]*:s0:c[0-9]*,c[0-9]*$' label
is "so have its files" "$(label | cut -d: -f4-)" sh -c "stat -c %C $tree/etc/passwd | cut -d: -f4-"
check "it answers" soon answers vm
is "execute" vm virt-sandbox-service execute vm -- hostname
check "stop" systemctl stop vm_sandbox
is "restorecon has nothing to do" "" restorecon -RFnv $tree
check "delete" virt-sandbox-service delete vm
says "a machine for a command" "uid=0" virt-sandbox -c $uri --start-timeout 3000 -- id
check "nothing is left" clean
shown sh -c 'ausearch -m avc -ts boot 2>/dev/null | grep "denied" | sed "s/.*denied//; s/pid=[0-9]*//; s/ino=[0-9]*//; s/:c[0-9]*,c[0-9]*//g" | sort | uniq -c | sort -rn | head -60'
