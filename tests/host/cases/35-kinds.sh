# A sandbox whose tree is in an image, and one of a command.
check "create with an image" virt-sandbox-service create -u apache2.service -i 300M img
check "start" systemctl start img_sandbox
check "it answers" answers img
shown virt-sandbox-service execute img -- findmnt
check "stop" systemctl stop img_sandbox
check "start again" systemctl start img_sandbox
check "restart" systemctl restart img_sandbox
check "it answers again" answers img
is "systemd inside is content" running virt-sandbox-service execute img -- systemctl is-system-running
check "stop again" systemctl stop img_sandbox
is "no loop device is left" "" losetup -a
check "delete" virt-sandbox-service delete img

check "create a command" virt-sandbox-service create --ready output cmd -- sh -c 'echo up; exec sleep infinity'
check "start" systemctl start cmd_sandbox
is "it is active" active systemctl is-active cmd_sandbox
says "its output" up virt-sandbox-service logs cmd
check "restart" systemctl restart cmd_sandbox
is "it is active again" active systemctl is-active cmd_sandbox
is "execute" cmd virt-sandbox-service execute cmd -- hostname
check "stop" systemctl stop cmd_sandbox
is "it is stopped, not failed" inactive systemctl is-active cmd_sandbox
shown journalctl --no-pager -u cmd_sandbox
check "delete" virt-sandbox-service delete cmd
check "create one that listens" virt-sandbox-service create --user www-data --ready port=8000 py -- python3 -m http.server 8000 -d /usr/share
check "start" systemctl start py_sandbox
check "it answers" answers py 8000
is "who it is" www-data virt-sandbox-service execute py -- ps -o user= -C python3
shown virt-sandbox-service execute py -- ps axu
check "delete" virt-sandbox-service delete --force py
check "nothing is left" clean
shown leftovers
