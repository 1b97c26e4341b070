# One command in a container.
# boots: plain apparmor
is "root's command" "uid=0(root) gid=0(root) groups=0(root)" virt-sandbox -c lxc:/// -- id
virt-sandbox -c lxc:/// -- sh -c 'exit 5'
is "its status" 5 echo $?
is "its input" "through" sh -c 'echo through | virt-sandbox -c lxc:/// -- cat'
refuse "the root is read-only" virt-sandbox -c lxc:/// -- touch /etc/x
is "as somebody else" www-data virt-sandbox -c lxc:/// -S www-data -- id -un
says "its cgroup is the root of what it sees" "^0::/" virt-sandbox -c lxc:/// -- cat /proc/self/cgroup
says "a network" "inet 192.168.122" virt-sandbox -c lxc:/// -N dhcp,source=default -- ip -4 addr
check "a mount" virt-sandbox -c lxc:/// -m host-bind:/data= -- touch /data/x
check "memory" virt-sandbox -c lxc:/// --memory 128M -- true
shown virt-sandbox -c lxc:/// --timing -- true
# A killed client leaves nothing running.
virt-sandbox -c lxc:/// -- sleep 600 &
client=$!
check "it runs" soon sh -c 'virsh -c lxc:/// list --name | grep -q .'
kill -KILL $client
check "its domain ends with it" soon sh -c '! virsh -c lxc:/// list --name | grep -q .'
check "nothing is left of all that" soon clean
shown leftovers
id user >/dev/null 2>&1 || useradd -m user
says "an ordinary user is told what is possible" "root\|qemu\|permi" su user -c 'virt-sandbox -c lxc:/// -- id'
shown su user -c 'virt-sandbox -c lxc:/// -- id'
shown su user -c 'virt-sandbox -- id'
# A one-shot command in a systemd unit, and below a user's scope.
says "in a unit" "uid=0" systemd-run --quiet --wait --pipe virt-sandbox -c lxc:/// -- id
