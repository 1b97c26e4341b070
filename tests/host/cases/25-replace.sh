# The package is upgraded while sandboxes run: new files replace its files, as with dpkg.
check "create" virt-sandbox-service create -u apache2.service --publish 8083:80 web1
check "start" systemctl start web1_sandbox
pid=$(systemctl show -P MainPID web1_sandbox)
for file in /usr/bin/virt-sandbox /usr/bin/virt-sandbox-service /usr/libexec/virt-sandbox/guest-init; do
    cp -p $file $file.dpkg-new
    mv $file.dpkg-new $file
done
says "it runs what is there no more" "(deleted)" readlink "/proc/$pid/exe"
is "execute" web1 virt-sandbox-service execute web1 -- hostname
says "connect" web1 sh -c 'echo hostname | virt-sandbox-service connect web1'
check "reload" systemctl reload web1_sandbox
says "list" running virt-sandbox-service list
check "set" virt-sandbox-service set web1 memory=300M
check "its port answers" curl -sS --max-time 60 -o /dev/null http://localhost:8083/
check "upgrade of the sandbox" virt-sandbox-service upgrade web1
is "the unit names the program as it is" "/usr/bin/virt-sandbox-service" sh -c \
    'sed -n "s/^ExecStart=\"\?\([^ \"]*\).*/\1/p" /etc/systemd/system/web1_sandbox.service'
is "it is the same" "$pid" systemctl show -P MainPID web1_sandbox
check "restart" systemctl restart web1_sandbox
refuse "then it runs the new one" printed "(deleted)" readlink "/proc/$(systemctl show -P MainPID web1_sandbox)/exe"
check "it answers" answers web1
check "stop" systemctl stop web1_sandbox
check "delete" virt-sandbox-service delete web1
check "nothing is left" clean
shown leftovers
