# The host's logrotate rotates logs in running sandboxes.
check "create" virt-sandbox-service create -u apache2.service web1
check "start" systemctl start web1_sandbox
check "answers" answers web1
rotated() {
    virt-sandbox-service execute web1 -- test -e /var/log/apache2/access.log.1
}
virt-sandbox-service execute web1 -- sh -c 'echo some >>/var/log/apache2/access.log'
refuse "nothing is rotated yet" rotated
# The sandbox's own state records the last rotation; a log that is not in it is not due.
virt-sandbox-service execute web1 -- sh -c 'mkdir -p /var/lib/logrotate; printf "%s\n" "logrotate state -- version 2" \
    "\"/var/log/apache2/access.log\" 2020-1-1-0:0:0" >/var/lib/logrotate/status'
check "logrotate" logrotate -f /etc/logrotate.d/virt-sandbox-service
check "the sandbox's log is rotated" soon rotated
shown cat /var/log/virt-sandbox-rotate.log
check "it still answers" answers web1
# As the timer does it, in a hardened unit.
virt-sandbox-service execute web1 -- sh -c 'rm -f /var/log/apache2/*.1; echo some >>/var/log/apache2/access.log
    printf "%s\n" "logrotate state -- version 2" "\"/var/log/apache2/access.log\" 2020-1-1-0:0:0" >/var/lib/logrotate/status'
printf '%s\n' 'logrotate state -- version 2' '"/var/log/virt-sandbox-rotate.log" 2020-1-1-0:0:0' >/var/lib/logrotate/status
check "logrotate.service" systemctl start logrotate.service
check "the log is rotated by it, too" soon rotated
shown cat /var/log/virt-sandbox-rotate.log
shown journalctl --no-pager -n 20 -u virt-sandbox-rotate -u logrotate
check "delete" virt-sandbox-service delete --force web1
check "nothing is left" clean
