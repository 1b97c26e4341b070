//! Settings of a file that cannot be converted.

use super::{Foreign, Result};
use crate::sys::arch::Arch;

/// Known groups and keys, with `N` for numbers. Those that cannot be converted get a note of their own; any other key
/// is unknown.
const KNOWN: [(&str, &[&str]); 13] = [
    ("api", &["class", "version"]),
    (
        "core",
        &["name", "uuid", "root", "arch", "shell", "debug", "verbose"],
    ),
    ("identity", &["uid", "gid", "username", "homedir"]),
    ("mount.N", &["type", "target", "source", "usage", "format"]),
    ("mount.N.include.N", &["dst", "src"]),
    ("env.N", &["key", "value"]),
    ("disk.N", &["type", "source", "tag", "format"]),
    (
        "network.N",
        &["dhcp", "source", "mac", "addresses", "routes"],
    ),
    ("network.N.address.N", &["primary", "broadcast", "prefix"]),
    ("network.N.route.N", &["target", "prefix", "gateway"]),
    ("security", &["label", "dynamic"]),
    ("interactive", &[]),
    ("service", &["bootTarget"]),
];

/// Returns the name of a group with `N` in place of each number.
fn shape(group: &str) -> String {
    let parts: Vec<&str> = group
        .split('.')
        .map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            // `007` would be another group than `7`.
            match is_number && (part == "0" || !part.starts_with('0')) {
                true => "N",
                false => part,
            }
        })
        .collect();
    parts.join(".")
}

impl Foreign {
    /// Adds a note for each setting that cannot be converted.
    pub(super) fn rest(&self, notes: &mut Vec<String>) -> Result<()> {
        let file = &self.file;
        let variables = match self.is_command {
            true => vec![],
            false => file.numbered("env")?,
        };
        for group in variables {
            let (key, value) = (file.need(&group, "key")?, file.need(&group, "value")?);
            notes.push(format!(
                "group '{group}': the variable {key}; set it in a drop-in of the unit: Environment=\"{key}={value}\""
            ));
        }
        for group in file.numbered("disk")? {
            let (source, tag) = (file.need(&group, "source")?, file.need(&group, "tag")?);
            file.need(&group, "type")?;
            file.need(&group, "format")?;
            notes.push(format!(
                "group '{group}': the disk '{source}' as '{tag}'; a sandbox of a service has no disks"
            ));
        }
        for group in file.numbered("network")? {
            let has_more = ["address", "route"].iter().any(|kind| {
                file.numbered(&format!("{group}.{kind}"))
                    .is_ok_and(|all| !all.is_empty())
            });
            if has_more && file.flag(&group, "dhcp", true)? {
                notes.push(format!(
                    "group '{group}': its addresses and routes, which a NIC with DHCP does not have"
                ));
            }
        }
        self.security(notes)?;
        self.core(notes)?;
        let is_other = |target: &&str| self.is_command || *target != "multi-user.target";
        if let Some(target) = file.get("service", "bootTarget").filter(is_other) {
            notes.push(format!(
                "group 'service': the target '{target}'; a sandbox boots to a target of its own, which wants its units"
            ));
        }
        for (group, keys) in file.iter() {
            let shape = shape(group);
            let known = KNOWN.iter().find(|(name, _)| *name == shape);
            for key in keys.keys() {
                if self.is_command && group == "command" && key.starts_with("argv.") {
                    continue;
                }
                if !known.is_some_and(|(_, keys)| keys.contains(&key.as_str())) {
                    notes.push(format!("group '{group}': the key '{key}'"));
                }
            }
        }
        for note in notes {
            *note = format!("not carried over: {note}");
        }
        Ok(())
    }
    fn security(&self, notes: &mut Vec<String>) -> Result<()> {
        let file = &self.file;
        if let Some(label) = file.get("security", "label") {
            notes.push(format!(
                "group 'security': the label '{label}'; libvirt chooses that of a sandbox of a service"
            ));
        }
        if !file.flag("security", "dynamic", true)? {
            notes
                .push("group 'security': that the label is static; libvirt chooses one".to_owned());
        }
        Ok(())
    }

    fn core(&self, notes: &mut Vec<String>) -> Result<()> {
        let file = &self.file;
        if let Some(root) = file.get("core", "root").filter(|root| *root != "/") {
            notes.push(format!(
                "group 'core': the root '{root}'; a sandbox of a service has the host's '/usr'"
            ));
        }
        let is_other = |arch: &&str| *arch != Arch::HOST.name();
        if let Some(arch) = file.get("core", "arch").filter(is_other) {
            notes.push(format!(
                "group 'core': the architecture '{arch}'; a sandbox of a service runs the host's programs"
            ));
        }
        for (key, instead) in [
            ("shell", "'virt-sandbox-service connect' gives a shell"),
            ("debug", "set LIBVIRT_SANDBOX_INIT_DEBUG=1 for a start"),
            ("verbose", "give --verbose to a command"),
        ] {
            if file.flag("core", key, false)? {
                notes.push(format!("group 'core': the key '{key}'; {instead}"));
            }
        }
        if self.is_command {
            return Ok(());
        }
        for (key, usual) in [
            ("uid", "0"),
            ("gid", "0"),
            ("username", "root"),
            ("homedir", "/root"),
        ] {
            if let Some(own) = file.get("identity", key).filter(|own| *own != usual) {
                notes.push(format!(
                    "group 'identity': the {key} '{own}'; systemd runs as root, and a unit says User= and Group="
                ));
            }
        }
        Ok(())
    }
}
