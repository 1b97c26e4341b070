//! What of a file has no place in a sandbox of ours.

use super::{Foreign, Result};

/// Keys that say nothing we would have to carry over.
const UNDERSTOOD: [(&str, &[&str]); 4] = [
    ("api", &["class", "version"]),
    (
        "core",
        &["name", "uuid", "root", "arch", "shell", "debug", "verbose"],
    ),
    ("identity", &["uid", "gid", "username", "homedir"]),
    ("service", &["bootTarget"]),
];

impl Foreign {
    /// All that has no place in a sandbox of ours.
    pub(super) fn rest(&self, notes: &mut Vec<String>) -> Result<()> {
        let file = &self.file;
        for group in file.numbered("env")? {
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
        if let Some(label) = file.get("security", "label") {
            notes.push(format!(
                "group 'security': the label '{label}'; libvirt chooses that of a sandbox of a service"
            ));
        }
        let root = file.get("core", "root").filter(|root| *root != "/");
        if let Some(root) = root {
            notes.push(format!(
                "group 'core': the root '{root}'; a sandbox of a service has the host's '/usr'"
            ));
        }
        for key in ["uid", "gid"] {
            if let Some(id) = file.get("identity", key).filter(|id| *id != "0") {
                notes.push(format!(
                    "group 'identity': the {key} {id}; systemd runs as root, and a unit says User= and Group="
                ));
            }
        }
        let target = file.need("service", "bootTarget")?;
        if target != "multi-user.target" {
            notes.push(format!(
                "group 'service': the target '{target}'; a sandbox boots to a target of its own, which wants its units"
            ));
        }
        for (group, keys) in file.iter() {
            let kind = group.split('.').next().unwrap_or(group);
            if ["mount", "env", "disk", "network", "security"].contains(&kind) {
                continue;
            }
            let known = UNDERSTOOD.iter().find(|(name, _)| *name == group);
            for key in keys.keys() {
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
}
