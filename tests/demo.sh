#!/bin/bash
# Shows a command and a service of the host in sandboxes: `make demo` runs this against a private libvirtd.
set -uo pipefail

PATH=$PWD/target/debug:$PATH
unit=apache2.service
name=demo
failed=0

show() {
    printf '\n$ %s\n' "$*"
    "$@" || { echo "(exit status $?)"; failed=1; }
}

trap 'virt-sandbox-service stop $name; virt-sandbox-service delete $name' INT TERM

show virt-sandbox -- sh -c 'id; touch /etc/x || echo "the root is read-only"'
show virt-sandbox-service create -u $unit $name
show virt-sandbox-service start $name
show virt-sandbox-service list
address=$(virt-sandbox-service list --format json | tr -d ' \n' |
    sed -n 's/.*"name":"'$name'"[^}]*"addresses":\["\([0-9.]*\).*/\1/p')
show curl -sSI --retry 5 --retry-connrefused --retry-delay 1 --max-time 10 "http://${address:-no-address}/"
show virt-sandbox-service execute $name -- ps ax
show virt-sandbox-service stop $name
show virt-sandbox-service delete $name

echo
if [ $failed = 0 ]; then
    echo "demo: $unit ran in a sandbox, answered at $address, and is gone"
else
    echo "demo: FAILED"
    exit 1
fi
