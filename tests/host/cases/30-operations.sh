# All other verbs.
check "create" virt-sandbox-service create -u apache2.service --memory 256M --pids 200 --cpus 1 web1
check "start" virt-sandbox-service start web1
check "answers" answers web1
is "execute" "web1" virt-sandbox-service execute web1 -- hostname
virt-sandbox-service execute web1 -- sh -c 'exit 3'
is "its status" 3 echo $?
says "connect" "web1" sh -c 'echo hostname | virt-sandbox-service connect web1'
is "systemd inside is content" running virt-sandbox-service execute web1 -- systemctl is-system-running
shown virt-sandbox-service execute web1 -- systemctl --failed --no-pager
shown virt-sandbox-service execute web1 -- systemctl list-units --no-pager --plain
shown virt-sandbox-service execute web1 -- cat /proc/self/cgroup /sys/fs/cgroup/cgroup.controllers
shown virt-sandbox-service execute web1 -- systemd-cgls --no-pager
says "logs" "Apache" virt-sandbox-service logs web1
says "stats" '"memory_limit": 268435456' virt-sandbox-service stats web1 --format json
shown virt-sandbox-service stats web1 --format json
shown virt-sandbox-service stats
shown virt-sandbox-service status web1
# Limits and namespaces of units inside.
says "controllers reach the sandbox" "memory.*pids" virt-sandbox-service execute web1 -- cat /sys/fs/cgroup/cgroup.controllers
check "a unit with limits" virt-sandbox-service execute web1 -- systemd-run --unit=bound -p MemoryMax=32M -p TasksMax=7 sleep 1000
is "its memory is bounded" 33554432 virt-sandbox-service execute web1 -- cat /sys/fs/cgroup/system.slice/bound.service/memory.max
is "its processes are bounded" 7 virt-sandbox-service execute web1 -- cat /sys/fs/cgroup/system.slice/bound.service/pids.max
check "a unit with a /proc of its own" virt-sandbox-service execute web1 -- systemd-run --wait -p ProtectProc=invisible -p ProcSubset=pid true
check "logind" virt-sandbox-service execute web1 -- systemctl start systemd-logind
says "its ids are not the host's" "^ *0 [1-9]" virt-sandbox-service execute web1 -- cat /proc/self/uid_map
refuse "nobody changes the sandbox's own limits" virt-sandbox-service execute web1 -- sh -c 'echo max >/sys/fs/cgroup/pids.max'
# Limits.
scope=/sys/fs/cgroup$(cut -d: -f3 /proc/"$(virsh -c lxc:/// domid web1)"/cgroup | head -n 1)
shown find /sys/fs/cgroup/machine.slice -name pids.max -o -name memory.max
shown sh -c "for f in \$(find /sys/fs/cgroup/machine.slice -name pids.max -o -name memory.max -o -name cpu.max); do echo \$f \$(cat \$f); done"
says "memory is bounded" 268435456 sh -c "cat \$(find /sys/fs/cgroup/machine.slice -name memory.max)"
says "processes are bounded" '^200$' sh -c "cat \$(find /sys/fs/cgroup/machine.slice -name pids.max)"
says "CPU is bounded" '^100000 100000$' sh -c "cat \$(find /sys/fs/cgroup/machine.slice -name cpu.max)"
virt-sandbox-service execute web1 -- sh -c 'head -c 400M /dev/zero | tail -c 399M >/dev/null'
says "who takes more memory is killed" "^oom_kill [1-9]" sh -c "cat \$(find /sys/fs/cgroup/machine.slice -name memory.events)"
says "more processes than that" "Resource temporarily\|Cannot fork\|fork" virt-sandbox-service execute web1 -- sh -c 'for i in $(seq 300); do sleep 5 & done'
sleep 6
check "it survives" answers web1
check "set" virt-sandbox-service set web1 memory=300M pids=150
says "memory is bounded anew" 314572800 sh -c "cat \$(find /sys/fs/cgroup/machine.slice -name memory.max)"
says "processes, too" '^150$' sh -c "cat \$(find /sys/fs/cgroup/machine.slice -name pids.max)"
check "cpus" virt-sandbox-service set web1 cpus=2
check "io-weight" virt-sandbox-service set web1 io-weight=200
# Copies.
says "a clone of what runs needs it stopped, and says so" "stop it first" virt-sandbox-service clone web1 web2
check "it runs on after that" answers web1
check "stop" virt-sandbox-service stop web1
check "clone" virt-sandbox-service clone web1 web2
check "both start" systemctl start web1_sandbox web2_sandbox
check "the clone answers" answers web2
check "the original, too" answers web1
check "they have different addresses" test "$(address web1)" != "$(address web2)"
systemctl enable web2_sandbox
refuse "rename what runs" virt-sandbox-service rename web2 web3
systemctl stop web2_sandbox
check "rename" virt-sandbox-service rename web2 web3
shown systemctl list-unit-files '*_sandbox*'
is "it is enabled under its new name" enabled systemctl is-enabled web3_sandbox
refuse "nothing has the old one" systemctl cat web2_sandbox
check "start under the new name" systemctl start web3_sandbox
check "it answers" answers web3
systemctl stop web3_sandbox web1_sandbox
check "export" virt-sandbox-service export web3 -o /root/web3.tar.zst
check "delete" virt-sandbox-service delete web3
refuse "its unit is gone" systemctl cat web3_sandbox
check "import" virt-sandbox-service import /root/web3.tar.zst web4
check "start the import" systemctl start web4_sandbox
check "it answers" answers web4
refuse "delete what runs" virt-sandbox-service delete web4
check "delete by force" virt-sandbox-service delete --force web4
check "delete the first" virt-sandbox-service delete web1
check "nothing is left" clean
shown leftovers
