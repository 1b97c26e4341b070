# With SELinux: what is labelled how, and what would be denied.
# boots: selinux
shown sestatus
shown cat /etc/selinux/default/contexts/lxc_contexts
for name in web1 web2; do
    check "create $name" virt-sandbox-service create -u apache2.service $name
    check "start $name" systemctl start ${name}_sandbox
    check "$name answers" answers $name
done
label() {
    tr -d '\0' </proc/"$(pgrep -P "$(virsh -c lxc:/// domid "$1")" | head -n 1)"/attr/current
}
says "its first process has a label of libvirt's" ':s0:c[0-9]*,c[0-9]*$' label web1
check "no two have the same" test "$(label web1)" != "$(label web2)"
is "what enters has it, too" "$(label web1)" sh -c "virt-sandbox-service execute web1 -- cat /proc/self/attr/current | tr -d '\\0'"
shown ls -dZ /var/lib/libvirt/filesystems/web1 /var/lib/libvirt/filesystems/web1/etc /var/lib/libvirt-sandbox/web1/*
check "a command" virt-sandbox -c lxc:/// -- id
check "delete" virt-sandbox-service delete --force web1
check "delete the other" virt-sandbox-service delete --force web2
shown sh -c 'grep -h "avc:  denied" /var/log/audit/audit.log | grep "svirt\|container_t" | sed "s/.*denied//; s/pid=[0-9]*//; s/ino=[0-9]*//" | sort | uniq -c | sort -rn | head -60'
check "nothing is left" clean
