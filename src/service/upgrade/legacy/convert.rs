//! What a file of libvirt-sandbox says, as far as a sandbox of ours can be so; and what it cannot.
//!
//! Pure: the units, which no such file names, are handed in.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::keyfile::{Keyfile, KeyfileError, wrong};
use crate::config::service::{DEFAULT_TIMEOUT, VERSION};
use crate::config::{Hostname, Mount, Network, Resources, SandboxConfig, SandboxName};

/// What the names of all types begin with.
const TYPES: &str = "GVirSandboxConfig";

/// Mounts that every sandbox of ours has.
const OF_EVERY: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// Parts of the root that lie in the tree.
const IN_TREE: [&str; 5] = ["/etc", "/var", "/home", "/root", "/srv"];

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

/// A sandbox of libvirt-sandbox cannot be one of ours. Prints as a phrase that follows a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The file is not right.
    #[error(transparent)]
    File(#[from] KeyfileError),
    /// It runs something that is no unit.
    #[error(
        "it runs the command '{0}', and a sandbox of a service runs systemd units: write a unit with ExecStart={0} and make a \
         sandbox of that; a command alone is run by 'virt-sandbox -- {0}'"
    )]
    Command(String),
    /// It is no service.
    #[error("it is of a throw-away sandbox, which 'virt-sandbox' runs without a file")]
    Interactive,
    /// All it has is in an image.
    #[error(
        "its files are in the image '{0}', and those of a sandbox are in a directory: mount the image, copy all that is in it to \
         '{1}', and remove the group '{2}' of the file"
    )]
    Image(String, String, String),
    /// The name in the file.
    #[error("group 'core': the key 'name' is '{0}', but it is the file of '{1}'")]
    Name(String, SandboxName),
}

type Result<T> = std::result::Result<T, ConvertError>;

/// A file that was understood.
#[derive(Debug)]
pub struct Foreign {
    file: Keyfile,
    /// The directory with its files.
    pub tree: PathBuf,
}

impl Foreign {
    /// Reads the text of the file of `name`, whose tree is below `trees` unless its mounts say otherwise.
    ///
    /// # Errors
    /// Where the text is wrong, names a type there is not, or is of a kind of sandbox that we do not have.
    pub fn parse(text: &str, name: &SandboxName, trees: &Path) -> Result<Self> {
        let file = Keyfile::parse(text)?;
        let class = file.need("api", "class")?;
        match class.strip_prefix(TYPES) {
            Some("ServiceSystemd") => {}
            Some("ServiceGeneric" | "Service") => {
                let command = file.values("command", "argv")?.join(" ");
                return Err(ConvertError::Command(command));
            }
            Some("Interactive") => return Err(ConvertError::Interactive),
            Some(_) | None => {
                return Err(wrong("api", "class", class, "no class of libvirt-sandbox").into());
            }
        }
        let own = file.need("core", "name")?;
        if own != name.as_str() {
            return Err(ConvertError::Name(own.to_owned(), name.clone()));
        }
        file.need("service", "bootTarget")?;
        let mut tree = trees.join(name.as_str());
        for group in file.numbered("mount")? {
            let (kind, target, source) = mount(&file, &group)?;
            if kind == "HostBind" && target == "/var" {
                if let Some(found) = source.strip_suffix("/var").filter(|tree| tree.len() > 1) {
                    tree = found.into();
                }
            }
        }
        for group in file.numbered("mount")? {
            let (kind, target, source) = mount(&file, &group)?;
            if kind == "HostImage" && Path::new(target) == tree {
                let place = tree.display().to_string();
                return Err(ConvertError::Image(source.to_owned(), place, group));
            }
        }
        Ok(Self { file, tree })
    }

    /// The configuration that follows, and a line for each thing that cannot be carried over. `fresh` is its identity if the file
    /// has none, and `filters` those of its NICs, which no file has.
    ///
    /// # Errors
    /// Where a value is wrong, or a key is missing.
    pub fn convert(
        &self,
        name: &SandboxName,
        connection: &str,
        units: Vec<String>,
        fresh: Uuid,
        filters: &[Option<String>],
    ) -> Result<(SandboxConfig, Vec<String>)> {
        let mut notes = Vec::new();
        let mounts = self.mounts(&mut notes)?;
        let networks = self.networks(filters)?;
        self.rest(&mut notes)?;
        let config = SandboxConfig {
            version: VERSION,
            name: name.clone(),
            uuid: self.file.read("core", "uuid")?.unwrap_or(fresh),
            connection: connection.to_owned(),
            units,
            packages: vec![],
            service_packages: vec![],
            path: self.tree.clone(),
            hostname: Hostname::of(name).to_string(),
            keep_units: vec![],
            timeout: DEFAULT_TIMEOUT,
            networks,
            mounts,
            resources: Resources::default(),
        };
        Ok((config, notes))
    }

    fn mounts(&self, notes: &mut Vec<String>) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for group in self.file.numbered("mount")? {
            let (kind, target, source) = mount(&self.file, &group)?;
            for include in self.file.numbered(&format!("{group}.include"))? {
                let (to, from) = (
                    self.file.need(&include, "dst")?,
                    self.file.need(&include, "src")?,
                );
                notes.push(format!(
                    "group '{include}': '{from}' was copied to '{to}' at every start; copy it into the tree"
                ));
            }
            let path = || {
                target
                    .parse()
                    .map_err(|error| wrong(&group, "target", target, &format!("{error}")))
            };
            match kind {
                "Ram" => {
                    let size = self.file.need(&group, "usage")?;
                    let bytes = size
                        .trim()
                        .parse()
                        .map_err(|error| wrong(&group, "usage", size, &format!("{error}")))?;
                    if !OF_EVERY.contains(&target) {
                        mounts.push(Mount::Ram {
                            target: path()?,
                            size: bytes,
                        });
                    }
                }
                "HostBind" if self.is_in_tree(target, source) || target.ends_with(".wants") => {}
                "HostBind" => mounts.push(Mount::HostBind {
                    target: path()?,
                    source: Some(source.into()),
                    read_only: false,
                }),
                "GuestBind" => mounts.push(Mount::GuestBind {
                    target: path()?,
                    source: source
                        .parse()
                        .map_err(|error| wrong(&group, "source", source, &format!("{error}")))?,
                    read_only: false,
                }),
                _ => notes.push(format!(
                    "group '{group}': the image '{source}' at '{target}'; mount it on the host and add \
                     'host-bind:{target}=DIRECTORY' to the mounts"
                )),
            }
        }
        Ok(mounts)
    }

    /// Whether a mount is one of a part of the tree at its own place.
    fn is_in_tree(&self, target: &str, source: &str) -> bool {
        let is_part = IN_TREE.iter().any(|top| Path::new(target).starts_with(top));
        let inside = self.tree.join(target.trim_start_matches('/'));
        is_part && Path::new(source) == inside
    }

    fn networks(&self, filters: &[Option<String>]) -> Result<Vec<Network>> {
        let mut networks = Vec::new();
        for (index, group) in self.file.numbered("network")?.into_iter().enumerate() {
            let mut fields = Vec::new();
            let is_dhcp = self.file.flag(&group, "dhcp", true)?;
            if is_dhcp {
                fields.push("dhcp".to_owned());
            }
            for key in ["source", "mac"] {
                if let Some(value) = self.file.get(&group, key) {
                    fields.push(plain(&group, (key, value))?);
                }
            }
            for address in self.numbered_of(&group, "address", "addresses")? {
                let need = |key| self.file.need(&address, key);
                let prefix = self.file.get(&address, "prefix").unwrap_or("24");
                let mut text = format!("{}/{prefix}", need("primary")?);
                if let Some(broadcast) = self.file.get(&address, "broadcast") {
                    text = format!("{text}%{broadcast}");
                }
                if !is_dhcp {
                    fields.push(plain(&address, ("address", &text))?);
                }
            }
            for route in self.numbered_of(&group, "route", "routes")? {
                let need = |key| self.file.need(&route, key);
                let text = format!(
                    "{}/{}%{}",
                    need("target")?,
                    self.file.get(&route, "prefix").unwrap_or("24"),
                    need("gateway")?
                );
                if !is_dhcp {
                    fields.push(plain(&route, ("route", &text))?);
                }
            }
            fields.extend(filters.get(index).cloned().flatten());
            let text = fields.join(",");
            let network = match text.is_empty() {
                true => "source=default".parse(),
                false => text.parse::<Network>(),
            };
            networks.push(network.map_err(|error| wrong(&group, "*", &text, &error.to_string()))?);
        }
        Ok(networks)
    }

    /// The groups `GROUP.KIND.N`, as many as the key `count` of the group says.
    fn numbered_of(&self, group: &str, kind: &str, count: &str) -> Result<Vec<String>> {
        let prefix = format!("{group}.{kind}");
        let groups = self.file.numbered(&prefix)?;
        let most: usize = self.file.read(group, count)?.unwrap_or(0);
        if most > 100 {
            return Err(KeyfileError::Index {
                group: group.to_owned(),
                index: most,
                most: 100,
            }
            .into());
        }
        let is_counted = |name: &String| {
            let number = name
                .rsplit('.')
                .next()
                .and_then(|n| n.parse::<usize>().ok());
            number.is_some_and(|number| number < most)
        };
        Ok(groups.into_iter().filter(is_counted).collect())
    }

    /// All that has no place in a sandbox of ours.
    fn rest(&self, notes: &mut Vec<String>) -> Result<()> {
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

/// Type, target and source of a mount; a tmpfs has no source.
fn mount<'a>(file: &'a Keyfile, group: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let class = file.need(group, "type")?;
    let target = file.need(group, "target")?;
    let prefix = format!("{TYPES}Mount");
    let kind = class
        .strip_prefix(prefix.as_str())
        .filter(|kind| ["HostBind", "HostImage", "GuestBind", "Ram"].contains(kind));
    let kind = kind.ok_or_else(|| wrong(group, "type", class, "no type of mount"))?;
    let source = match kind {
        "Ram" => "",
        _ => file.need(group, "source")?,
    };
    Ok((kind, target, source))
}

/// A field of a NIC. A comma would begin another.
fn plain(group: &str, (key, value): (&str, &str)) -> std::result::Result<String, KeyfileError> {
    match value.contains(',') {
        true => Err(wrong(group, key, value, "which has a comma in it")),
        false => Ok(format!("{key}={value}")),
    }
}

/// The filters of the NICs of a domain, as fields of a NIC.
#[must_use]
pub fn filters(document: &str) -> Vec<Option<String>> {
    let Ok(document) = roxmltree::Document::parse(document) else {
        return vec![];
    };
    let interfaces = document
        .descendants()
        .filter(|node| node.has_tag_name("interface"));
    interfaces
        .map(|interface| {
            let filter = interface
                .children()
                .find(|node| node.has_tag_name("filterref"))?;
            let mut text = format!("filter={}", filter.attribute("filter")?);
            for parameter in filter
                .children()
                .filter(|node| node.has_tag_name("parameter"))
            {
                let name = parameter.attribute("name")?.to_lowercase();
                text.push_str(&format!(",filter.{name}={}", parameter.attribute("value")?));
            }
            Some(text)
        })
        .collect()
}

#[cfg(test)]
mod tests;
