# A unit that fails inside makes the host's unit fail, and the journal says why.
# boots: plain apparmor
cat >/etc/systemd/system/broken.service <<'END'
[Service]
Type=notify
ExecStart=/bin/sh -c 'echo the reason is this; exit 7'
END
cat >/etc/systemd/system/dies.service <<'END'
[Service]
ExecStart=/bin/sleep 20
END
systemctl daemon-reload
check "create" virt-sandbox-service create -u broken.service -N none bad
refuse "start" systemctl start bad_sandbox
shown systemctl status --no-pager bad_sandbox
says "the host's journal names the unit inside" "broken.service" journalctl --no-pager -u bad_sandbox
says "and what it said" "the reason is this" journalctl --no-pager -u bad_sandbox
says "our start shows it, too" "the reason is this" virt-sandbox-service start bad
check "systemd tries again" soon sh -c '[ "$(systemctl show -P NRestarts bad_sandbox)" -gt 0 ]'
systemctl stop bad_sandbox
check "no domain is left running" sh -c '! virsh -c lxc:/// list --name | grep .'
check "delete" virt-sandbox-service delete bad
# Sandboxes that end by themselves.
check "create what ends" virt-sandbox-service create -u apache2.service -N none ends
check "start" systemctl start ends_sandbox
pid=$(systemctl show -P MainPID ends_sandbox)
virt-sandbox-service execute ends -- systemctl --no-block poweroff
check "systemd starts it again" soon sh -c '[ "$(systemctl show -P NRestarts ends_sandbox)" -gt 0 ] && systemctl is-active ends_sandbox'
check "with another process" test "$(systemctl show -P MainPID ends_sandbox)" != "$pid"
# Sandboxes keep running when libvirtd restarts.
leader=$(virsh -c lxc:/// domid ends)
check "libvirtd restarts" systemctl restart libvirtd.service
sleep 3
is "it runs on" active systemctl is-active ends_sandbox
is "it is the same" "$leader" virsh -c lxc:/// domid ends
check "execute after that" virt-sandbox-service execute ends -- true
# 'run' is killed: the next one takes over the sandbox.
systemctl kill -s KILL ends_sandbox
check "it is kept again" soon systemctl is-active ends_sandbox
shown journalctl --no-pager -n 30 -u ends_sandbox
check "stop" systemctl stop ends_sandbox
is "nothing runs then" "" virsh -c lxc:/// list --name
check "delete" virt-sandbox-service delete ends
rm /etc/systemd/system/broken.service /etc/systemd/system/dies.service
systemctl daemon-reload
check "nothing is left" clean
