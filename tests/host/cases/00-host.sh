# The host is as the other cases expect it.
# boots: plain apparmor
is "systemd is PID 1" systemd cat /proc/1/comm
is "cgroups are of version 2 alone" cgroup2fs stat -f -c %T /sys/fs/cgroup
check "the boot is over" systemctl is-active multi-user.target
says "libvirt answers" "LXC" virsh -c lxc:/// version
shown systemctl --failed --no-pager
shown systemctl status --no-pager libvirtd.service libvirtd.socket
shown systemd-analyze
shown cat /proc/cmdline /sys/fs/cgroup/cgroup.controllers
shown sh -c 'cat /sys/kernel/security/lsm; ls /sys/fs/selinux; virsh -c lxc:/// capabilities | grep -A5 secmodel'
