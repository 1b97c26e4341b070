//! Where sandboxes are kept on the host, and what makes their making and removing safe against being cut short.
//!
//! A sandbox is a directory below `/etc/libvirt-sandbox/services`. While one is made or removed, the directory holds a
//! [`Removal`]: what to take away. Whoever finds one that nobody works on any more takes it away; so a
//! killed `create` is undone, and a killed `delete` finished, by the next command.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::sys::atomic;
use crate::sys::lock::{Lock, Sharing};

/// The places of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Configuration, one directory a sandbox.
    pub configs: PathBuf,
    /// What is made anew at every start.
    pub stages: PathBuf,
    /// Units of the host's systemd.
    pub units: PathBuf,
    /// Private trees, unless `--path` says otherwise.
    pub trees: PathBuf,
    /// Templates of the admin.
    pub templates: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            configs: "/etc/libvirt-sandbox/services".into(),
            stages: "/var/lib/libvirt-sandbox".into(),
            units: "/etc/systemd/system".into(),
            trees: "/var/lib/libvirt/filesystems".into(),
            templates: "/etc/libvirt-sandbox/templates".into(),
        }
    }
}

/// What to take away of a sandbox that is half made or half removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Removal {
    /// The sandbox.
    pub name: SandboxName,
    /// The libvirt connection of its domain.
    pub connection: String,
    /// Its tree, once it is ours.
    pub tree: Option<PathBuf>,
    /// Whether the tree's own directory was there before and stays.
    pub keep_directory: bool,
    /// Whether its unit and its domain are ours.
    pub registered: bool,
}

impl Store {
    /// The directory of a sandbox's configuration.
    #[must_use]
    pub fn dir(&self, name: &SandboxName) -> PathBuf {
        self.configs.join(name.as_str())
    }

    /// A sandbox's configuration.
    #[must_use]
    pub fn config(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("sandbox.toml")
    }

    /// The record of what a sandbox's `/etc` was made from.
    #[must_use]
    pub fn manifest(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("manifest")
    }

    /// The staging root of a sandbox.
    #[must_use]
    pub fn stage(&self, name: &SandboxName) -> PathBuf {
        self.stages.join(name.as_str())
    }

    /// The host's unit of a sandbox.
    #[must_use]
    pub fn unit(&self, name: &SandboxName) -> PathBuf {
        self.units.join(name.unit())
    }

    fn removal(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("removal.json")
    }

    /// Names of all sandboxes, sorted.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn names(&self) -> Result<Vec<SandboxName>> {
        let entries = match fs::read_dir(&self.configs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(Error::io("reading", &self.configs)(error)),
        };
        let mut names: Vec<SandboxName> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The configuration of a sandbox.
    ///
    /// # Errors
    /// Where there is no such sandbox (the message names those there are), or its file is not right.
    pub fn load(&self, name: &SandboxName) -> Result<SandboxConfig> {
        let path = self.config(name);
        if !path.exists() {
            let names = self.names()?;
            let known = match names.as_slice() {
                [] => "there is none yet; make one with 'virt-sandbox-service create -u UNIT NAME'"
                    .to_owned(),
                names => {
                    let names: Vec<&str> = names.iter().map(SandboxName::as_str).collect();
                    format!("there is {}", names.join(", "))
                }
            };
            return Err(Error::refused(format!(
                "there is no sandbox '{name}'; {known}"
            )));
        }
        SandboxConfig::load(&path)
    }

    /// Reserves a name, by making its directory, and takes its lock.
    ///
    /// # Errors
    /// Where the name is taken.
    pub fn reserve(&self, name: &SandboxName) -> Result<Lock> {
        let dir = self.dir(name);
        fs::create_dir_all(&self.configs).map_err(Error::io("creating", &self.configs))?;
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => self.lock(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::refused(format!(
                "there is a sandbox '{name}' already; choose another name, or remove it with 'virt-sandbox-service delete {name}'"
            ))),
            Err(error) => Err(Error::io("creating", &dir)(error)),
        }
    }

    /// Takes the lock of a sandbox, and waits for whoever has it.
    ///
    /// # Errors
    /// Where the sandbox is gone once the lock is free.
    pub fn lock(&self, name: &SandboxName) -> Result<Lock> {
        let path = self.dir(name).join("lock");
        let lock = Lock::acquire(&path, Sharing::Exclusive, |held| {
            log::warn!("waiting: {held}")
        })?;
        if !path.exists() {
            return Err(Error::refused(format!(
                "the sandbox '{name}' has been removed meanwhile"
            )));
        }
        Ok(lock)
    }

    /// Notes what to take away should this command not come to its end.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&self, removal: &Removal) -> Result<()> {
        let text = serde_json::to_vec(removal).map_err(Error::step("noting what to remove"))?;
        atomic::write(&self.removal(&removal.name), &text, 0o600)?;
        Ok(())
    }

    /// The command came to its end: nothing is to be taken away.
    ///
    /// # Errors
    /// Where the note cannot be removed.
    pub fn settle(&self, name: &SandboxName) -> Result<()> {
        let path = self.removal(name);
        fs::remove_file(&path).map_err(Error::io("removing", &path))
    }

    /// What commands that were cut short have left to take away, each with its lock. What somebody works on is
    /// not among it.
    ///
    /// # Errors
    /// Where the directories cannot be read.
    pub fn interrupted(&self) -> Result<Vec<(Removal, Lock)>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let dir = self.dir(&name);
            let is_whole = self.config(&name).exists() && !self.removal(&name).exists();
            if is_whole || !dir.is_dir() {
                continue;
            }
            let Ok(Ok(lock)) = Lock::try_acquire(&dir.join("lock"), Sharing::Exclusive) else {
                continue;
            };
            let note = fs::read(self.removal(&name)).ok();
            match note.and_then(|text| serde_json::from_slice(&text).ok()) {
                Some(removal) => found.push((removal, lock)),
                // Nothing was made yet but the directory itself.
                None if !self.config(&name).exists() => self.forget(&name),
                None => {}
            }
        }
        Ok(found)
    }

    /// Removes the directories of a sandbox, and those above that are ours and empty.
    pub fn forget(&self, name: &SandboxName) {
        for dir in [self.stage(name), self.dir(name)] {
            remove_tree(&dir);
        }
        for dir in [&self.configs, &self.stages].map(PathBuf::as_path) {
            let _ = fs::remove_dir(dir);
        }
        if let Some(parent) = self.configs.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Removes a directory with all in it, and says what stays.
pub fn remove_tree(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("removing '{}': {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(root: &Path) -> Store {
        Store {
            configs: root.join("etc/services"),
            stages: root.join("stages"),
            units: root.join("units"),
            trees: root.join("trees"),
            templates: root.join("templates"),
        }
    }

    #[test]
    fn what_was_cut_short_is_found_once_nobody_works_on_it() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let name: SandboxName = "web1".parse().unwrap();
        let removal = Removal {
            name: name.clone(),
            connection: "lxc:///".into(),
            tree: None,
            keep_directory: false,
            registered: false,
        };
        let lock = store.reserve(&name).unwrap();
        store.note(&removal).unwrap();
        assert!(store.interrupted().unwrap().is_empty());
        drop(lock);
        let found = store.interrupted().unwrap();
        assert_eq!(
            found.iter().map(|(removal, _)| removal).collect::<Vec<_>>(),
            [&removal]
        );
        store.forget(&name);
        assert!(!store.configs.exists());
    }

    #[test]
    fn a_name_is_taken_once() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let name: SandboxName = "web1".parse().unwrap();
        let _lock = store.reserve(&name).unwrap();
        let error = store.reserve(&name).unwrap_err().to_string();
        assert!(error.contains("already"), "{error}");
    }
}
