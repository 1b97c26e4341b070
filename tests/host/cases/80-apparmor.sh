# With AppArmor, each running container has a profile of its own.
# boots: apparmor
shown aa-status --enabled
for name in web1 web2; do
    check "create $name" virt-sandbox-service create -u apache2.service $name
    check "start $name" systemctl start ${name}_sandbox
    check "$name answers" answers $name
done
profile() {
    cat /proc/"$(pgrep -P "$(virsh -c lxc:/// domid "$1")" | head -n 1)"/attr/current
}
is "its first process is confined" "libvirt-$(virsh -c lxc:/// domuuid web1 | head -n 1) (enforce)" profile web1
check "no two have the same profile" test "$(profile web1)" != "$(profile web2)"
is "so is what enters it" "$(profile web1)" virt-sandbox-service execute web1 -- cat /proc/self/attr/current
is "systemd inside is content" running virt-sandbox-service execute web1 -- systemctl is-system-running
shown virt-sandbox-service execute web1 -- systemctl --failed --no-pager
inside() {
    virt-sandbox-service execute web1 -- sh -c "$1"
}
refuse "the kernel's own files cannot be mounted" inside 'mkdir -p /tmp/d && mount -t debugfs none /tmp/d'
refuse "what the host shares read-only stays so" inside 'mount -o remount,rw,bind /usr && touch /usr/x'
refuse "nobody tells the kernel what to run" inside 'echo "|/x" >/proc/sys/kernel/core_pattern'
refuse "nobody leaves the profile" inside 'echo "exec unconfined" >/proc/self/attr/exec && /bin/true'
check "a tmpfs can be mounted" inside 'mkdir -p /tmp/t && mount -t tmpfs none /tmp/t && umount /tmp/t'
says "who tries is in the host's log" 'apparmor="DENIED".*profile="libvirt-' cat /var/log/audit/audit.log
shown sh -c 'grep DENIED /var/log/audit/audit.log | tail -20'
is "a command is confined, too" "libvirt" sh -c 'virt-sandbox -c lxc:/// -- cat /proc/self/attr/current | cut -c1-7'
check "reload" systemctl reload web1_sandbox
check "restart" systemctl restart web1_sandbox
check "answers" answers web1
check "stop" systemctl stop web1_sandbox web2_sandbox
check "delete" virt-sandbox-service delete web1
check "delete the other" virt-sandbox-service delete web2
is "no profile is left" "" sh -c 'grep "^libvirt-" /sys/kernel/security/apparmor/profiles'
check "nothing is left" clean
