# An AppArmor profile is loaded as long as its sandbox runs, and follows renames and deletions.
# boots: apparmor
loaded() {
    grep "^libvirt-" /sys/kernel/security/apparmor/profiles | cut -d' ' -f1 | sort
}
# of NAME: print the profile of a sandbox.
of() {
    echo "libvirt-$(virsh -c lxc:/// domuuid "$1" | head -n 1)"
}
confined() {
    cut -d' ' -f1 /proc/"$(pgrep -P "$(virsh -c lxc:/// domid "$1")" | head -n 1)"/attr/current
}
is "there is none" "" loaded
check "create" virt-sandbox-service create -u apache2.service web1
check "start" systemctl start web1_sandbox
is "it is loaded" "$(of web1)" loaded
says "aa-status has it, enforced" "$(of web1)" aa-status --pretty-json
refuse "nobody complains only" sh -c 'grep "^libvirt-" /sys/kernel/security/apparmor/profiles | grep complain'
# apparmor.service restarts, or an upgrade reloads it.
check "apparmor is reloaded" systemctl reload apparmor
check "apparmor restarts" systemctl restart apparmor
is "the sandbox is still confined" "$(of web1)" confined web1
is "what enters is, too" "$(of web1) (enforce)" virt-sandbox-service execute web1 -- cat /proc/self/attr/current
check "upgrade" virt-sandbox-service upgrade web1
check "restart" systemctl restart web1_sandbox
is "it is confined after that" "$(of web1)" confined web1
first=$(of web1)
check "stop" systemctl stop web1_sandbox
check "clone" virt-sandbox-service clone web1 web2
check "rename" virt-sandbox-service rename web1 web3
check "start both" systemctl start web2_sandbox web3_sandbox
is "the renamed one keeps its profile" "$first" confined web3
is "the clone has one of its own" "$(of web2)" confined web2
refuse "that is another" test "$(of web2)" = "$first"
check "web2 answers" answers web2
check "web3 answers" answers web3
check "delete a running one" virt-sandbox-service delete --force web2
is "its profile goes" "$first" loaded
check "stop" systemctl stop web3_sandbox
check "export" virt-sandbox-service export web3 -o /root/web3.tar.zst
check "delete" virt-sandbox-service delete web3
is "no profile is left" "" loaded
check "import" virt-sandbox-service import /root/web3.tar.zst web4
check "start" systemctl start web4_sandbox
is "the import is confined" "$(of web4)" confined web4
check "stop" systemctl stop web4_sandbox

# An administrator's template that is no valid profile, and a missing parser.
mkdir -p /etc/libvirt-sandbox/templates/apparmor
echo 'profile "{{ profile }}" { nonsense' >/etc/libvirt-sandbox/templates/apparmor/container
says "a broken profile is named" "AppArmor profile" virt-sandbox-service start web4
refuse "and nothing starts without one" sh -c 'virsh -c lxc:/// list --name | grep .'
rm /etc/libvirt-sandbox/templates/apparmor/container
mv /sbin/apparmor_parser /sbin/apparmor_parser.away
says "a missing program is named" "apparmor_parser" virt-sandbox-service start web4
refuse "and nothing starts without it" sh -c 'virsh -c lxc:/// list --name | grep .'
mv /sbin/apparmor_parser.away /sbin/apparmor_parser
# The administrator's additions to every sandbox's profile.
sed 's|^  file,|  file,\n  deny /etc/forbidden rwklx,|' /usr/share/virt-sandbox/templates/apparmor/container \
    >/etc/libvirt-sandbox/templates/apparmor/container
systemctl reset-failed web4_sandbox
check "start with a template of the admin's" systemctl start web4_sandbox
refuse "it holds" virt-sandbox-service execute web4 -- touch /etc/forbidden
check "it answers" answers web4
rm -r /etc/libvirt-sandbox/templates/apparmor
rmdir /etc/libvirt-sandbox/templates 2>/dev/null

# Other labels.
check "a label that is asked for" virt-sandbox-service create -u nginx.service --security inherit ng
check "start" systemctl start ng_sandbox
is "it is the one of the host's own" unconfined confined ng
check "delete" virt-sandbox-service delete --force ng
# Kinds of sandboxes.
check "create a command" virt-sandbox-service create --ready output cmd -- sh -c 'echo up; exec sleep infinity'
check "start" systemctl start cmd_sandbox
is "it is confined" "$(of cmd)" confined cmd
check "create with an image" virt-sandbox-service create -u apache2.service -i 300M img
check "start" systemctl start img_sandbox
is "it is confined" "$(of img)" confined img
check "it answers" answers img
check "create as the host's root" virt-sandbox-service create -u apache2.service --idmap no hr
check "start" systemctl start hr_sandbox
is "it is confined" "$(of hr)" confined hr
check "it answers" answers hr
refuse "the host's processes are out of reach" virt-sandbox-service execute hr -- sh -c 'echo x >/proc/sys/kernel/core_pattern'
for name in cmd img hr web4; do
    check "delete $name" virt-sandbox-service delete --force $name
done
is "no profile is left" "" loaded
# One-shot command: its profile is removed at its end, even if its client is killed.
virt-sandbox -c lxc:/// -- sleep 600 &
client=$!
check "it is loaded" soon sh -c 'grep -q "^libvirt-" /sys/kernel/security/apparmor/profiles'
kill -KILL $client
check "its domain ends with it" soon sh -c '! virsh -c lxc:/// list --name | grep -q .'
check "the next one takes its profile away" virt-sandbox -c lxc:/// -- true
is "no profile is left" "" loaded
check "nothing is left" clean
shown leftovers
