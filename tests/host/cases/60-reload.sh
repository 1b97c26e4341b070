# Reloads of the host's own unit reach its sandboxes where they should.
check "create" virt-sandbox-service create -u apache2.service web1
check "start" systemctl start web1_sandbox
check "the host's own runs beside it" systemctl start apache2
check "reload the host's" systemctl reload apache2
check "the sandbox was reloaded" soon sh -c 'virt-sandbox-service logs web1 | grep -q "Reloaded apache2"'
check "stop the host's" systemctl stop apache2
is "the sandbox runs on" active systemctl is-active web1_sandbox
check "it answers" answers web1
# The sandbox's journal, as systemd's tools see it.
machine=$(machinectl list --no-legend | cut -d' ' -f1)
shown journalctl -M "$machine" --no-pager -n 5
shown machinectl status --no-pager "$machine"
shown machinectl shell "$machine" /bin/hostname
shown systemctl -M "$machine" status --no-pager
shown loginctl list-sessions --no-pager
# The host's logrotate handles a sandbox's tree only if the package says so.
check "logrotate finds no fault" logrotate -d /etc/logrotate.conf
check "stop" systemctl stop web1_sandbox
check "delete" virt-sandbox-service delete web1
check "nothing is left" clean
