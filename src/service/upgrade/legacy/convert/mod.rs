//! What a file of libvirt-sandbox says, as far as a sandbox of ours can be so; and what it cannot.
//!
//! Pure: the units, which no such file names, are handed in.

mod command;
mod networks;
mod rest;

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::keyfile::{Keyfile, KeyfileError, wrong};
use crate::config::sandbox::{DEFAULT_TIMEOUT, VERSION};
pub use networks::filters;

use crate::config::{
    Capabilities, Hostname, Idmap, KernelRequest, Mount, Resources, SandboxConfig, SandboxName,
    Seccomp, Workload,
};

/// What the names of all types begin with.
const TYPES: &str = "GVirSandboxConfig";

/// Mounts that every sandbox of ours has.
const OF_EVERY: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// Parts of the root that lie in the tree.
const IN_TREE: [&str; 5] = ["/etc", "/var", "/home", "/root", "/srv"];

/// A sandbox of libvirt-sandbox cannot be one of ours. Prints as a phrase that follows a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The file is not right.
    #[error(transparent)]
    File(#[from] KeyfileError),
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
    /// Whether it runs a command and no units.
    pub is_command: bool,
}

impl Foreign {
    /// Reads the text of the file of `name`, whose tree is below `trees` unless its mounts say otherwise.
    ///
    /// # Errors
    /// Where the text is wrong, names a type there is not, or is of a kind of sandbox that we do not have.
    pub fn parse(text: &str, name: &SandboxName, trees: &Path) -> Result<Self> {
        let file = Keyfile::parse(text)?;
        let class = file.need("api", "class")?;
        let is_command = class.ends_with("ServiceGeneric");
        match class.strip_prefix(TYPES) {
            Some("ServiceSystemd") => {
                file.need("service", "bootTarget")?;
            }
            Some("ServiceGeneric") => {
                file.need("command", "argv.0")?;
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
        let mut tree = trees.join(name.as_str());
        for group in file.numbered("mount")? {
            let (kind, target, source) = mount(&file, &group)?;
            if kind == "HostBind"
                && target == "/var"
                && let Some(found) = source.strip_suffix("/var").filter(|tree| tree.len() > 1)
            {
                tree = found.into();
            }
        }
        for group in file.numbered("mount")? {
            let (kind, target, source) = mount(&file, &group)?;
            if kind == "HostImage" && Path::new(target) == tree {
                let place = tree.display().to_string();
                return Err(ConvertError::Image(source.to_owned(), place, group));
            }
        }
        Ok(Self {
            file,
            tree,
            is_command,
        })
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
            workload: match self.is_command {
                true => Workload::Command(self.command()?),
                false => Workload::Units(units),
            },
            packages: vec![],
            service_packages: vec![],
            path: self.tree.clone(),
            hostname: Hostname::of(name).to_string(),
            keep_units: vec![],
            timeout: DEFAULT_TIMEOUT,
            networks,
            publish: vec![],
            on_demand: false,
            idle_stop: None,
            mounts,
            kernel: KernelRequest::default(),
            image: None,
            idmap: Idmap::Auto,
            seccomp: Seccomp::Default,
            capabilities: Capabilities::default(),
            devices: vec![],
            credentials: vec![],
            security: None,
            file_type: None,
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
                // Files in it would be files of the tree itself, and who the tree belongs to.
                "HostBind" if self.tree.starts_with(source) => notes.push(format!(
                    "group '{group}': '{source}' at '{target}', where the sandbox's own tree is; move what it needs to a directory \
                     outside of '{source}' and add 'host-bind:{target}=DIRECTORY' to the mounts"
                )),
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

#[cfg(test)]
mod tests;
