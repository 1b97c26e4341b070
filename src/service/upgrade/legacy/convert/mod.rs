//! Conversion of a file of libvirt-sandbox, with a note for each setting that cannot be converted.
//!
//! Pure: the units are handed in, because such a file does not name them.

mod command;
mod networks;
mod rest;

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::keyfile::{Keyfile, KeyfileError, wrong};
pub use networks::filters;

use crate::config::{Mount, SandboxConfig, SandboxName, Workload};

/// Prefix of the names of all types.
const TYPES: &str = "GVirSandboxConfig";

/// Mounts that every sandbox has anyway.
const OF_EVERY: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// Top-level directories in the tree.
const IN_TREE: [&str; 5] = ["/etc", "/var", "/home", "/root", "/srv"];

/// Reason why a sandbox of libvirt-sandbox cannot be converted. Its text is a phrase that follows a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The file is invalid.
    #[error(transparent)]
    File(#[from] KeyfileError),
    /// The sandbox is not a service.
    #[error("it is of a throw-away sandbox, which 'virt-sandbox' runs without a file")]
    Interactive,
    /// The files of the sandbox are in an image.
    #[error(
        "its files are in the image '{0}', and those of a sandbox are in a directory: mount the image, copy all that is in it to \
         '{1}', and remove the group '{2}' of the file"
    )]
    Image(String, String, String),
    /// The file has another name.
    #[error("group 'core': the key 'name' is '{0}', but it is the file of '{1}'")]
    Name(String, SandboxName),
}

type Result<T> = std::result::Result<T, ConvertError>;

/// A parsed file.
#[derive(Debug)]
pub struct Foreign {
    file: Keyfile,
    /// Directory with the files of the sandbox.
    pub tree: PathBuf,
    /// True if it runs a command rather than units.
    pub is_command: bool,
}

impl Foreign {
    /// Parses the file of the sandbox `name`; its tree is below `trees` unless its mounts say otherwise.
    ///
    /// # Errors
    /// The text is invalid, names an unknown type, or describes an unsupported kind of sandbox.
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

    /// Converts the file; returns a configuration, and a note for each setting that cannot be converted. `fresh` is the identity if the file
    /// has none; `filters` are those of the NICs, which the file does not contain.
    ///
    /// # Errors
    /// A value is invalid, or a key is missing.
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
        let workload = match self.is_command {
            true => Workload::Command(self.command()?),
            false => Workload::Units(units),
        };
        let config = SandboxConfig {
            uuid: self.file.read("core", "uuid")?.unwrap_or(fresh),
            networks,
            mounts,
            ..SandboxConfig::new(name.clone(), connection, workload, self.tree.clone())
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
                // The directory is the tree itself or part of it.
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

    /// Returns true if a mount is a directory of the tree at its own place.
    fn is_in_tree(&self, target: &str, source: &str) -> bool {
        let is_part = IN_TREE.iter().any(|top| Path::new(target).starts_with(top));
        let inside = self.tree.join(target.trim_start_matches('/'));
        is_part && Path::new(source) == inside
    }
}

/// Returns type, target and source of a mount; a tmpfs has an empty source.
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
