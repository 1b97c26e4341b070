# A package of the host is upgraded, and so are its sandboxes.
repository=/root/repository
mkdir -p $repository

# release VERSION: build a package with a service that reports its version, a configuration file, an account and state.
release() {
    tree=/root/build
    rm -rf $tree
    mkdir -p $tree/DEBIAN $tree/usr/bin $tree/lib/systemd/system $tree/etc/teller $tree/usr/lib/tmpfiles.d
    printf '%s\n' 'Package: teller' "Version: $1" 'Architecture: all' 'Maintainer: tests <root@localhost>' \
        'Depends: python3' 'Description: tells its version' >$tree/DEBIAN/control
    echo /etc/teller/teller.conf >$tree/DEBIAN/conffiles
    echo "greeting of $1" >$tree/etc/teller/teller.conf
    printf 'd /var/lib/teller-%s 0755 root root -\n' "$1" >$tree/usr/lib/tmpfiles.d/teller.conf
    cat >$tree/usr/bin/teller <<'PROGRAM'
#!/bin/sh
mkdir -p /run/teller
cat /etc/teller/teller.conf >/run/teller/index.html
echo "program of VERSION" >>/run/teller/index.html
exec python3 -m http.server 80 -d /run/teller
PROGRAM
    sed -i "s/VERSION/$1/" $tree/usr/bin/teller
    chmod 755 $tree/usr/bin/teller
    printf '%s\n' '[Unit]' 'Description=Teller' '[Service]' 'ExecStart=/usr/bin/teller' '[Install]' \
        'WantedBy=multi-user.target' >$tree/lib/systemd/system/teller.service
    rm -f $repository/*.deb
    dpkg-deb --build --root-owner-group -Znone $tree $repository/teller.deb >/dev/null
    {
        dpkg-deb -f $repository/teller.deb
        echo "Filename: ./teller.deb"
        echo "Size: $(stat -c %s $repository/teller.deb)"
        echo "SHA256: $(sha256sum $repository/teller.deb | cut -d' ' -f1)"
    } >$repository/Packages
}

told() {
    curl -sS --max-time 60 "http://$(address "$1")/"
}

echo "deb [trusted=yes] file:$repository ./" >/root/sources.list
apt="apt-get -y -q -o Dir::Etc::sourcelist=/root/sources.list -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root"
release 1
check "update" $apt update
check "install" $apt install teller
check "create" virt-sandbox-service create -u teller.service t1
check "clone" virt-sandbox-service clone t1 t2
check "start" systemctl start t1_sandbox t2_sandbox
says "it tells its version" "program of 1" told t1
says "and its greeting" "greeting of 1" told t1
virt-sandbox-service execute t2 -- sh -c 'echo "greeting of mine" >/etc/teller/teller.conf'

release 2
check "update" $apt update
check "upgrade the host" $apt -o Dpkg::Options::=--force-confdef upgrade
is "the host has it" 2 dpkg-query -W -f '${Version}' teller
says "sandboxes run on as they were" "program of 1" told t1
shown virt-sandbox-service upgrade --all --dry-run
check "upgrade the sandboxes" virt-sandbox-service upgrade --all --restart
says "the first has the new program" "program of 2" told t1
says "and the new configuration" "greeting of 2" told t1
says "the second has the new program" "program of 2" told t2
says "and its own configuration" "greeting of mine" told t2
says "the host's is put beside it" "greeting of 2" virt-sandbox-service execute t2 -- cat /etc/teller/teller.conf.virt-sandbox-new
check "a directory that came with it" virt-sandbox-service execute t1 -- test -d /var/lib/teller-2
is "it runs" active systemctl is-active t1_sandbox

# The package is removed.
check "remove it from the host" $apt remove teller
check "stop" systemctl stop t1_sandbox
refuse "it does not start without its program" systemctl start t1_sandbox
shown journalctl --no-pager -n 20 -u t1_sandbox
systemctl stop t1_sandbox
check "install it again" $apt install teller
check "it starts" systemctl start t1_sandbox
says "as before" "program of 2" told t1
check "delete" virt-sandbox-service delete --force t1
check "delete the other" virt-sandbox-service delete --force t2
check "purge" $apt purge teller
check "nothing is left" clean
shown leftovers
