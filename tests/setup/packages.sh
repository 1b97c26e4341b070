#!/bin/bash
# Installs Debian packages for the tests; nothing is started by it.
#
#   packages.sh base               what building and testing needs
#   packages.sh tests              what tests run services of
#   packages.sh host               what `make test-host` needs beside it
#   packages.sh bench              what `make bench` needs beside it
#   packages.sh deb                what `make deb` needs beside it
#   packages.sh rpm                what `make rpm` needs beside it
#   packages.sh install PACKAGE…   those of the packages that are missing
#   packages.sh purge PACKAGE…     those of the packages that are there
set -euo pipefail

base=(
    # build
    gcc libc6-dev pkg-config libvirt-dev
    # libvirt with its LXC driver, and what its networks need
    libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-lxc libvirt-clients
    dnsmasq-base iproute2 iptables libvirt-daemon-config-nwfilter
    # libvirt's QEMU driver, virtiofsd, and kernels with and without 9p
    libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils linux-image-amd64 linux-image-cloud-amd64
    # the guest's init, and what the tests look with
    systemd dbus acl attr curl procps ca-certificates cpio kmod
    # filesystems for images
    e2fsprogs xfsprogs btrfs-progs squashfs-tools fdisk
)

# What tests run services of, and look them up with.
tests=(apache2 curl python3 redis-server libnss-libvirt)

# What one-shot sandboxes are compared with, and what that needs.
bench=(podman crun bubblewrap systemd-container xz-utils python3-venv busybox-static)

# What makes a whole host for a virtual machine.
host=(debootstrap)

# What makes and checks packages.
deb=(debhelper dpkg-dev lintian libzstd-dev xz-utils)
rpm=(rpm rpmlint libzstd-dev xz-utils)

[ "$(id -u)" = 0 ] || { echo "packages.sh: must be root" >&2; exit 1; }
[ -e /etc/debian_version ] || { echo "packages.sh: knows Debian only; install: ${base[*]}" >&2; exit 1; }

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

candidate() {
    LC_ALL=C apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'
}

# Since Debian 13 virtiofsd is no part of QEMU, and nothing depends on it.
case $(candidate virtiofsd) in "" | "(none)") ;; *) base+=(virtiofsd) ;; esac

# Services must not start outside of a sandbox: invoke-rc.d(8) asks this program.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
made=
cleanup() {
    rm -f "$log"
    [ -z "$made" ] || rm -f "$policy"
}
trap cleanup EXIT

apt() {
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=1
    fi
    local try
    # An older index may name versions the archive no longer has; a new one is fetched once.
    for try in 1 2; do
        if DEBIAN_FRONTEND=noninteractive apt-get -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
            -o Dpkg::Options::=--force-confold "$@" >"$log" 2>&1 </dev/null; then
            return
        fi
        [ "$try" = 2 ] || update force
    done
    tail -n 20 "$log" >&2
    return 1
}

update() {
    # Once: an index of the last day will do unless apt found it wanting.
    if [ -z "${1:-}" ] && [ -n "$(find /var/lib/apt/lists -name '*Packages*' -mtime -1 -print -quit 2>/dev/null)" ]; then
        return
    fi
    apt-get -qq update -o DPkg::Lock::Timeout=300 >/dev/null
}

action=${1:-base}
shift || true
wanted=("$@")
case $action in
    base) wanted=("${base[@]}") action=install ;;
    tests) wanted=("${tests[@]}") action=install ;;
    host) wanted=("${host[@]}") action=install ;;
    bench) wanted=("${bench[@]}") action=install ;;
    deb) wanted=("${deb[@]}") action=install ;;
    rpm) wanted=("${rpm[@]}") action=install ;;
    install | purge) ;;
    *) echo "usage: packages.sh base|tests|host|bench|deb|rpm|install|purge [PACKAGE…]" >&2; exit 2 ;;
esac

chosen=()
for package in $(printf '%s\n' "${wanted[@]}" | sort -u); do
    if installed "$package"; then
        [ "$action" = install ] || chosen+=("$package")
    else
        [ "$action" = purge ] || chosen+=("$package")
    fi
done
[ ${#chosen[@]} -gt 0 ] || exit 0

echo "$action: ${chosen[*]}"
if [ "$action" = install ]; then
    update
    # An initrd takes a minute to build and guests have one of their own. A host that boots by itself gets it.
    [ -e /boot/grub ] || export INITRD=No
    # All of QEMU is of one version: one part from backports would keep the others from being installed.
    if [[ " ${chosen[*]} " == *" qemu-system-x86 "* ]] && installed qemu-utils; then
        chosen+=("qemu-utils=$(candidate qemu-system-x86)")
    fi
    apt install --no-install-recommends --allow-downgrades "${chosen[@]}"
else
    apt purge "${chosen[@]}"
fi
