# boots: plain apparmor selinux
export LD_LIBRARY_PATH=/opt/st
/opt/st/strace -f -s 300 -o /root/trace -p "$(pidof libvirtd)" &
sleep 3
unset LD_LIBRARY_PATH
shown virt-sandbox --debug -c lxc:/// -- id
kill %1
wait
grep -n 'guest-init' /root/trace | cut -c1-200 | head -40
grep -n -A400 'execve("/guest-init"' /root/trace | cut -c1-250 | head -400
shown sh -c 'journalctl -k -n 60 --no-pager'
