//! Units that belong to systemd itself and exist on every machine with systemd:
//!
//! the names of systemd.special(7), and the units that systemd ships.

use super::name::{UnitKind, UnitName};

/// Role of a unit in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Software whose needs must be discovered.
    Service,
    /// A unit of systemd itself, present wherever systemd is.
    System,
    /// A mount, slice, device or the like: only its name matters.
    NameOnly,
}

/// Targets, slices and scopes of systemd.special(7) and bootup(7), without those of `systemctl --user`.
const GROUPS: &str = "-.slice basic.target bluetooth.target boot-complete.target cryptsetup-pre.target \
    cryptsetup.target ctrl-alt-del.target default.target emergency.target exit.target factory-reset.target final.target \
    first-boot-complete.target getty-pre.target getty.target graphical.target halt.target hibernate.target \
    hybrid-sleep.target init.scope initrd-fs.target initrd-root-device.target initrd-root-fs.target initrd-usr-fs.target \
    initrd-switch-root.target initrd.target integritysetup-pre.target integritysetup.target kbrequest.target kexec.target \
    local-fs-pre.target local-fs.target machine.slice machines.target multi-user.target network-online.target \
    network-pre.target network.target nss-lookup.target nss-user-lookup.target paths.target poweroff.target printer.target \
    reboot.target remote-cryptsetup.target remote-fs-pre.target remote-fs.target remote-veritysetup.target rescue.target \
    rpcbind.target runlevel0.target runlevel1.target runlevel2.target runlevel3.target runlevel4.target runlevel5.target \
    runlevel6.target shutdown.target sigpwr.target sleep.target slices.target smartcard.target sockets.target \
    soft-reboot.target sound.target ssh-access.target storage-target-mode.target suspend-then-hibernate.target \
    suspend.target swap.target sysinit.target system-update-pre.target system-update.target system.slice time-set.target \
    time-sync.target timers.target tpm2.target umount.target usb-gadget.target user.slice veritysetup-pre.target \
    veritysetup.target";

/// Other units that systemd ships or whose names it reserves, and that do not begin with `systemd-`.
const OTHERS: &str = "autovt@.service capsule@.service console-getty.service container-getty@.service dbus.service \
    dbus.socket debug-shell.service emergency.service getty-static.service getty@.service initrd-cleanup.service \
    initrd-parse-etc.service initrd-switch-root.service initrd-udevadm-cleanup-db.service kmod-static-nodes.service \
    kmod.service ldconfig.service modprobe@.service procps.service quotaon.service quotaon@.service rc-local.service \
    rescue.service serial-getty@.service syslog.socket system-update-cleanup.service udev.service user-runtime-dir@.service \
    user@.service";

/// Returns the role of a unit, by its name.
pub fn role(name: &UnitName) -> Role {
    let text = name.template().unwrap_or_else(|| name.clone()).to_string();
    let listed = |list: &str| list.split_whitespace().any(|known| known == text);
    match name.kind() {
        _ if listed(GROUPS) || listed(OTHERS) => Role::System,
        UnitKind::Mount
        | UnitKind::Automount
        | UnitKind::Swap
        | UnitKind::Device
        | UnitKind::Slice
        | UnitKind::Scope => Role::NameOnly,
        UnitKind::Target if text == "blockdev@.target" => Role::System,
        UnitKind::Service
        | UnitKind::Socket
        | UnitKind::Target
        | UnitKind::Path
        | UnitKind::Timer => {
            // `dbus-org.freedesktop.…1.service` are the aliases by which D-Bus starts systemd's daemons.
            let systemds = text.starts_with("systemd-")
                || (text.starts_with("dbus-org.freedesktop.") && text.ends_with("1.service"));
            if systemds {
                Role::System
            } else {
                Role::Service
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::name;
    use super::*;

    #[test]
    fn systemds_own_are_known() {
        for (unit, expected) in [
            ("network-online.target", Role::System),
            ("dbus.socket", Role::System),
            ("systemd-journald.socket", Role::System),
            ("getty@tty1.service", Role::System),
            ("dbus-org.freedesktop.login1.service", Role::System),
            ("system.slice", Role::System),
            ("own.slice", Role::NameOnly),
            ("var-lib-x.mount", Role::NameOnly),
            ("own.target", Role::Service),
            ("web.service", Role::Service),
        ] {
            assert_eq!(role(&name(unit)), expected, "{unit}");
        }
    }
}
