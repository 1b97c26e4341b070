# Other services than the first, on cgroups of version 2 alone.
for pair in nginx.service:ng:80 redis-server.service:re:- postgresql.service:pg:-; do
    unit=${pair%%:*} rest=${pair#*:}
    name=${rest%%:*} port=${rest#*:}
    check "create $unit" virt-sandbox-service create -u $unit $name
    check "start $unit" virt-sandbox-service start $name
    is "systemd inside is content" running virt-sandbox-service execute $name -- systemctl is-system-running --wait
    shown virt-sandbox-service execute $name -- systemctl --failed --no-pager --plain
    [ "$port" = - ] || check "$unit answers" answers $name $port
done
is "redis answers" PONG virt-sandbox-service execute re -- redis-cli ping
says "postgresql answers" "1 row" virt-sandbox-service execute pg -- su postgres -c 'psql -c "select 1"'
for name in ng re pg; do
    check "delete $name" virt-sandbox-service delete --force $name
done
check "nothing is left" clean
shown leftovers
