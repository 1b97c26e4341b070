# Start on demand: the host's systemd listens, and starts a sandbox at the first connection.
# boots: plain apparmor
ask() {
    curl -sS --max-time 300 -o /dev/null -w '%{http_code}' http://localhost:8081/
}
check "create" virt-sandbox-service create -u apache2.service --publish 8081:80 --on-demand web1
shown systemctl cat --no-pager 'web1_sandbox*'
check "start what listens" systemctl start web1_sandbox.socket
is "the sandbox does not run" inactive systemctl is-active web1_sandbox.service
is "who connects is answered" 200 ask
is "the sandbox runs" active systemctl is-active web1_sandbox.service
is "and again" 200 ask
shown systemctl status --no-pager 'web1_sandbox*'
check "stop" systemctl stop web1_sandbox.service
is "it listens on" active systemctl is-active web1_sandbox.socket
is "it starts again" 200 ask
check "stop all" systemctl stop web1_sandbox.socket web1_sandbox.service
refuse "nobody answers then" ask
check "delete" virt-sandbox-service delete web1
check "nothing is left" clean
shown leftovers
# Ports of a sandbox that is running already.
check "create with a port" virt-sandbox-service create -u apache2.service --publish 8081:80 web1
check "start" systemctl start web1_sandbox.service
is "the port answers" 200 ask
check "restart" systemctl restart web1_sandbox.service
is "it answers after that" 200 ask
check "delete by force" virt-sandbox-service delete --force web1
refuse "nobody answers then" ask
check "nothing is left of it" clean
