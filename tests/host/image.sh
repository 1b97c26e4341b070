#!/bin/bash
# Makes a whole Debian host for a virtual machine: DIR/{disk.ext4,vmlinuz,initrd.img}. What is there already is kept.
#
#   image.sh DIR
set -euo pipefail

# What is mounted meanwhile ends with the script.
[ -n "${IN_NAMESPACE:-}" ] || IN_NAMESPACE=1 exec unshare -m --propagation private bash "$0" "$@"

dir=$1
suite=bookworm
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
here=$(cd "$(dirname "$0")" && pwd)

packages=(
    # the host; polkitd alone would take systemd-sysv out again
    systemd systemd-sysv libpam-systemd dbus udev kmod procps iproute2 iptables polkitd logrotate
    # what it boots from: modules of virtio and 9p are in this kernel's package, and not in the smaller one's
    linux-image-amd64 initramfs-tools zstd
    # libvirt
    libvirt-daemon-system libvirt-daemon-driver-lxc libvirt-clients dnsmasq-base systemd-container
    # security modules
    apparmor apparmor-utils selinux-policy-default selinux-utils policycoreutils policycoreutils-python-utils auditd
    # services, and what the scripts look with
    apache2 nginx-light redis-server postgresql mariadb-server unbound dns-root-data dnsmasq chrony curl ca-certificates less acl attr
    # virtual machines in it
    qemu-system-x86 qemu-system-common seabios
)

# A change of this script makes a new one.
stamp=$(cat "$0" "$here/boot.service" "$here"/../../selinux/*.cil | sha256sum)
if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "image.sh: must be root" >&2; exit 1; }
for program in debootstrap mke2fs; do
    command -v $program >/dev/null || { echo "image.sh: '$program' is missing" >&2; exit 1; }
done
mkdir -p "$dir"
rm -f "$dir/stamp" "$dir/disk.ext4"

tree=$dir/tree
if [ ! -e "$tree/complete" ]; then
    rm -rf --one-file-system "$tree"
    echo "image.sh: installing $suite (some minutes; see $dir/debootstrap.log)"
    debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" $suite "$tree" "$mirror" \
        >"$dir/debootstrap.log" 2>&1 || { tail -n 20 "$dir/debootstrap.log" >&2; exit 1; }
    touch "$tree/complete"
fi

echo host >"$tree/etc/hostname"
printf '127.0.0.1 localhost host\n' >"$tree/etc/hosts"
printf '/dev/vda / ext4 defaults 0 1\n' >"$tree/etc/fstab"
: >"$tree/etc/machine-id"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
install -m 644 "$here/boot.service" "$tree/etc/systemd/system/host-tests.service"
wants=$tree/etc/systemd/system/multi-user.target.wants
mkdir -p "$wants"
ln -sf ../host-tests.service "$wants/host-tests.service"
# Services of the host that the scripts put into sandboxes must not take their state; timers would run at any time.
chroot "$tree" systemctl -q disable apache2 nginx redis-server postgresql mariadb unbound dnsmasq chrony 2>/dev/null
chroot "$tree" systemctl -q mask getty@tty1.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
    man-db.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service networking.service 2>/dev/null
# The initrd loads what it needs for the disk; the share of the tests is mounted from the root.
printf 'virtio_pci\nvirtio_blk\next4\n' >>"$tree/etc/initramfs-tools/modules"
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=zstd/' "$tree/etc/initramfs-tools/initramfs.conf"
mount -t proc proc "$tree/proc"
chroot "$tree" update-initramfs -u >>"$dir/debootstrap.log" 2>&1
cp "$tree"/boot/vmlinuz-* "$dir/vmlinuz"
cp "$tree"/boot/initrd.img-* "$dir/initrd.img"
# This policy has no types of containers. Loading it takes an emulated machine minutes.
cp -R "$here/../../selinux" "$tree/tmp/"
chroot "$tree" sh -c 'semodule -n -i /tmp/selinux/*.cil' >>"$dir/debootstrap.log" 2>&1
rm -r "$tree/tmp/selinux"
# Labels of SELinux, or the first boot with it would spend minutes on them.
contexts=$tree/etc/selinux/default/contexts/files/file_contexts
if [ -e "$contexts" ]; then
    chroot "$tree" setfiles -F /etc/selinux/default/contexts/files/file_contexts / >>"$dir/debootstrap.log" 2>&1 ||
        echo "image.sh: no labels of SELinux: see $dir/debootstrap.log"
fi
umount "$tree/proc"
rm -f "$tree/complete"
mke2fs -q -F -t ext4 -O '^has_journal' -d "$tree" "$dir/disk.ext4" 4G >/dev/null
rm -rf --one-file-system "$tree"
echo "$stamp" >"$dir/stamp"
