# With SELinux, each sandbox and its files have their own categories.
# boots: selinux
is "SELinux denies" Enforcing getenforce
says "libvirt uses it" selinux virsh -c lxc:/// capabilities
shown cat /etc/selinux/default/contexts/lxc_contexts
trees=/var/lib/libvirt/filesystems
check "create web1" virt-sandbox-service create -u apache2.service web1
# The second sandbox mounts a directory of the first, as an attacker would like.
mkdir -p $trees/web1/srv/open
echo secret >$trees/web1/srv/open/file
chmod 755 $trees/web1/srv $trees/web1/srv/open
chmod 644 $trees/web1/srv/open/file
check "create web2" virt-sandbox-service create -u apache2.service --idmap no -m host-bind:/mnt=$trees/web1/srv web2
for name in web1 web2; do
    check "start $name" systemctl start ${name}_sandbox
    check "$name answers" answers $name
done
first() {
    pgrep -P "$(virsh -c lxc:/// domid "$1")" | head -n 1
}
label() {
    tr -d '\0' </proc/"$(first "$1")"/attr/current
}
level() {
    label "$1" | cut -d: -f4-
}
file_label() {
    stat -c %C "$1"
}
inside() {
    virt-sandbox-service execute web2 -- sh -c "$1"
}
type=$(sed -n 's/^file *= *"\(.*\):s0".*/\1/p' /etc/selinux/default/contexts/lxc_contexts)
says "its processes have two categories" ':s0:c[0-9]*,c[0-9]*$' label web1
check "no two have the same" test "$(level web1)" != "$(level web2)"
is "so have its files" "$type:$(level web1)" file_label $trees/web1/etc/passwd
is "and those of the other" "$type:$(level web2)" file_label $trees/web2/etc/passwd
is "what enters has the label, too" "$(label web1)" sh -c "virt-sandbox-service execute web1 -- cat /proc/self/attr/current | tr -d '\\0'"
is "systemd inside is content" running virt-sandbox-service execute web1 -- systemctl is-system-running
says "inspect says it" "$(label web1)" virt-sandbox-service inspect web1
says "so does security" "$(label web1)" virt-sandbox-service security web1

restorecon -RF $trees/web1/srv
refuse "the other's root cannot read them" inside 'cat /mnt/open/file'
refuse "nor write there" inside 'echo x >>/mnt/open/file'
denied() {
    ausearch -m avc -ts boot 2>/dev/null | grep 'denied' | grep "scontext=$(label web2) tcontext=$type:$(level web1)"
}
check "the host's log has who was denied what" denied
shown denied
chcon -R -l s0 $trees/web1/srv
is "without the categories it could" secret inside 'cat /mnt/open/file'
is "restorecon finds that" "$trees/web1/srv/open/file" sh -c "restorecon -RFnv $trees/web1 | sed -n 's/^Would relabel \([^ ]*file\) .*/\1/p'"
check "and puts it right" restorecon -RF $trees/web1
is "then it has nothing to do" "" restorecon -RFnv $trees/web1 $trees/web2

check "a command" virt-sandbox -c lxc:/// -- id
says "has categories, too" ':s0:c[0-9]*,c[0-9]*$' sh -c "virt-sandbox -c lxc:/// -- cat /proc/self/attr/current | tr -d '\\0'"
check "stop" systemctl stop web1_sandbox web2_sandbox
check "clone" virt-sandbox-service clone web1 web3
check "a clone has others" test "$(file_label $trees/web3/etc/passwd)" != "$(file_label $trees/web1/etc/passwd)"
is "on all it has" "" restorecon -RFnv $trees/web3
check "rename" virt-sandbox-service rename web3 web5
check "export" virt-sandbox-service export web1 -o /root/web1.tar
check "import" virt-sandbox-service import /root/web1.tar web4
check "what is imported has others" test "$(file_label $trees/web4/etc/passwd)" != "$(file_label $trees/web1/etc/passwd)"
check "upgrade" virt-sandbox-service upgrade web4 web5
check "start what was imported" systemctl start web4_sandbox
check "it answers" answers web4
check "stop" systemctl stop web4_sandbox
is "restorecon has nothing to do at any" "" restorecon -RFnv $trees
process=$(sed -n 's/^process *= *"\(.*\):s0".*/\1/p' /etc/selinux/default/contexts/lxc_contexts)
check "create one with a label of its own" virt-sandbox-service create -u apache2.service -f virt_content_t \
    --security "static,label=$process:s0:c11,c22" web6
is "its files have the type that was asked for" system_u:object_r:virt_content_t:s0:c11,c22 file_label $trees/web6/etc/passwd
check "create one in an image" virt-sandbox-service create -u apache2.service -i 400M web7
for _ in 1 2; do
    check "start it" systemctl start web7_sandbox
    check "it answers" answers web7
    is "its files are labelled in the image" "$type:$(level web7)" virt-sandbox-service execute web7 -- stat -c %C /etc/passwd
    check "stop" systemctl stop web7_sandbox
    check "upgrade" virt-sandbox-service upgrade web7
done
check "clone the image" virt-sandbox-service clone web7 web8
check "start the clone" systemctl start web8_sandbox
check "it answers" answers web8
is "the clone's files have its categories" "$type:$(level web8)" virt-sandbox-service execute web8 -- stat -c %C /etc/passwd
for name in web1 web2 web4 web5 web6 web7 web8; do
    check "delete $name" virt-sandbox-service delete --force $name
done
is "no rule is left" "" grep filesystems /etc/selinux/default/contexts/files/file_contexts.local
check "nothing is left" clean
shown sh -c 'ausearch -m avc -ts boot 2>/dev/null | grep "denied" | sed "s/.*denied//; s/pid=[0-9]*//; s/ino=[0-9]*//; s/:c[0-9]*,c[0-9]*//g" | sort | uniq -c | sort -rn | head -60'
