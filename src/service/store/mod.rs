//! Directories of sandboxes on the host, their locks, and recovery of interrupted creation and removal.
//!
//! A sandbox is a directory below `/etc/libvirt-sandbox/services`. During creation and removal it holds a
//! [`Removal`], a list of what to remove. The next command carries out an abandoned one: an
//! interrupted `create` is undone, and an interrupted `delete` finished.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::SandboxName;
use crate::domain::template;
use crate::error::{Error, Result};
use crate::guest;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::file::{atomic, remove};

mod failure;
mod load;

/// Paths of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Configuration, one directory for each sandbox.
    pub configs: PathBuf,
    /// Staging roots, made anew at every start.
    pub stages: PathBuf,
    /// Units of the host's systemd.
    pub units: PathBuf,
    /// Private trees, unless `--path` says otherwise.
    pub trees: PathBuf,
    /// Templates of the administrator.
    pub templates: PathBuf,
    /// The host's journal.
    pub journals: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            configs: guest::SERVICES.into(),
            stages: "/var/lib/libvirt-sandbox".into(),
            units: "/etc/systemd/system".into(),
            trees: "/var/lib/libvirt/filesystems".into(),
            templates: template::OVERRIDES.into(),
            journals: "/var/log/journal".into(),
        }
    }
}

#[cfg(test)]
impl Store {
    /// Returns places below `root`, for tests.
    pub(crate) fn below(root: &Path) -> Self {
        Self {
            configs: root.join("etc/services"),
            stages: root.join("stages"),
            units: root.join("units"),
            trees: root.join("trees"),
            templates: root.join("templates"),
            journals: root.join("journals"),
        }
    }
}

/// List of what to remove of a partly created or partly removed sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Removal {
    /// Name of the sandbox.
    pub name: SandboxName,
    /// libvirt connection of its domain.
    pub connection: String,
    /// Identity, as in the mark of its tree.
    pub uuid: uuid::Uuid,
    /// Tree, once it is marked.
    pub tree: Option<PathBuf>,
    /// Image with the tree, once it was created.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// True once its unit and its domain exist.
    pub registered: bool,
}

impl Store {
    /// Returns the directory of a sandbox's configuration.
    #[must_use]
    pub fn dir(&self, name: &SandboxName) -> PathBuf {
        self.configs.join(name.as_str())
    }

    /// Returns the file of a sandbox's configuration.
    #[must_use]
    pub fn config(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("sandbox.toml")
    }

    /// Returns the manifest of a sandbox's `/etc`.
    #[must_use]
    pub fn manifest(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("manifest")
    }

    /// Returns the file of the other records of a sandbox's origin.
    #[must_use]
    pub fn base(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("base.json")
    }

    /// Returns the copy of the configuration at the last start; it is missing if a restart would change something.
    #[must_use]
    pub fn started(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("started.toml")
    }

    /// Returns guest-init's log since the last start.
    #[must_use]
    pub fn init_log(&self, name: &SandboxName) -> PathBuf {
        self.stage(name).join("guest.log")
    }

    /// Returns the note of a failure, which a start or rename removes.
    #[must_use]
    pub fn failure(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("failure")
    }

    /// Returns the records of an upgrade in progress.
    #[must_use]
    pub fn upgrade(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("upgrade")
    }

    /// Returns the lock of an upgrade, which is held to its end, also while the sandbox's own lock is free for a restart.
    #[must_use]
    pub fn upgrade_lock(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("upgrade.lock")
    }

    /// Returns the lock of a sandbox.
    #[must_use]
    pub fn lock_file(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join(LOCK)
    }

    /// Returns the staging root of a sandbox.
    #[must_use]
    pub fn stage(&self, name: &SandboxName) -> PathBuf {
        self.stages.join(name.as_str())
    }

    /// Returns the host's service unit of a sandbox.
    #[must_use]
    pub fn unit(&self, name: &SandboxName) -> PathBuf {
        self.units.join(name.unit())
    }

    /// Returns the host's socket unit of a sandbox.
    #[must_use]
    pub fn socket(&self, name: &SandboxName) -> PathBuf {
        self.units.join(name.socket())
    }

    fn removal(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("removal.json")
    }

    /// Returns the sorted names of all sandboxes.
    ///
    /// # Errors
    /// The directory cannot be read.
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

    /// Checks that a sandbox exists.
    ///
    /// # Errors
    /// The sandbox does not exist; the message lists the existing ones.
    pub fn must_exist(&self, name: &SandboxName) -> Result<()> {
        if self.config(name).exists() {
            return Ok(());
        }
        if self.started(name).exists() && !self.removal(name).exists() {
            return Err(Error::new(
                crate::error::ErrorKind::Config,
                format!(
                    "the sandbox '{name}' has no '{}' any more: put it back, or remove the sandbox with 'virt-sandbox-service delete --force {name}'",
                    self.config(name).display()
                ),
            ));
        }
        let names = self.names()?;
        let known = match names.as_slice() {
            [] => "there is none yet; make one with 'virt-sandbox-service create -u UNIT NAME'"
                .to_owned(),
            names => {
                let names: Vec<&str> = names.iter().map(SandboxName::as_str).collect();
                format!("there is {}", names.join(", "))
            }
        };
        Err(Error::not_found(format!(
            "there is no sandbox '{name}'; {known}"
        )))
    }

    /// Checks that a name is free.
    ///
    /// # Errors
    /// A sandbox of this name exists.
    pub fn check_free(&self, name: &SandboxName) -> Result<()> {
        match self.dir(name).symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Ok(_) | Err(_) => Err(Error::exists(format!(
                "there is a sandbox '{name}' already; choose another name, or remove it with 'virt-sandbox-service delete {name}'"
            ))),
        }
    }

    /// Reserves a name by creating its directory, and takes its lock.
    ///
    /// # Errors
    /// The name is taken.
    pub fn reserve(&self, name: &SandboxName) -> Result<Lock> {
        let dir = self.dir(name);
        // Another command may remove the directories as leftovers between two steps.
        for _ in 0..ATTEMPTS {
            fs::create_dir_all(&self.configs).map_err(Error::io("creating", &self.configs))?;
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.check_free(name)?,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("creating", &dir)(error)),
            }
            let path = dir.join(LOCK);
            match Lock::acquire(&path, Sharing::Exclusive, |_| {}) {
                Ok(lock) if lock.is_at(&path) => return Ok(lock),
                Ok(_) => {}
                Err(error) if error.source.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy(format!(
            "other commands keep removing '{}'; try again",
            dir.display()
        )))
    }

    /// Takes the lock of a sandbox, waiting for its holder, without reading its configuration.
    ///
    /// # Errors
    /// There is no such sandbox, also once the lock is free.
    pub(super) fn lock(&self, name: &SandboxName) -> Result<Lock> {
        self.lock_if(name, || self.must_exist(name))
    }

    /// Takes the lock of a sandbox; retries as long as `is_there` finds it.
    fn lock_if(&self, name: &SandboxName, is_there: impl Fn() -> Result<()>) -> Result<Lock> {
        let path = self.dir(name).join(LOCK);
        for _ in 0..ATTEMPTS {
            is_there()?;
            match Lock::acquire(&path, Sharing::Exclusive, |held| {
                log::warn!("waiting: {held}")
            }) {
                Ok(lock) if lock.is_at(&path) => return Ok(lock),
                // The sandbox was removed meanwhile, and perhaps created anew.
                Ok(_) => {}
                Err(error) if error.source.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::busy(format!(
            "other commands keep replacing the sandbox '{name}'; try again"
        )))
    }

    /// Notes what to remove after an interruption of this command.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn note_removal(&self, removal: &Removal) -> Result<()> {
        let text = serde_json::to_vec(removal).map_err(Error::step("noting what to remove"))?;
        atomic::write(&self.removal(&removal.name), &text, 0o600)?;
        Ok(())
    }

    /// Removes the note at the end of a command.
    ///
    /// # Errors
    /// The note cannot be removed.
    pub fn drop_removal(&self, name: &SandboxName) -> Result<()> {
        let path = self.removal(name);
        fs::remove_file(&path).map_err(Error::io("removing", &path))
    }

    /// Returns the sandboxes with the abandoned note `note`, each with its lock.
    pub(super) fn abandoned(&self, note: &str) -> Result<Vec<(SandboxName, Lock)>> {
        self.abandoned_where(|name| self.dir(name).join(note).exists())
    }

    /// Returns the sandboxes with an abandoned note, as told by `has_note`, each with its lock.
    pub(super) fn abandoned_where(
        &self,
        has_note: impl Fn(&SandboxName) -> bool,
    ) -> Result<Vec<(SandboxName, Lock)>> {
        let mut names = self.names()?;
        names.retain(&has_note);
        let locked = names
            .into_iter()
            .filter_map(|name| Some((self.try_lock(&name)?, name)));
        // The former holder of the lock may have finished meanwhile.
        Ok(locked
            .filter(|(_, name)| has_note(name))
            .map(|(lock, name)| (name, lock))
            .collect())
    }

    /// Takes the lock of a sandbox unless a command holds it.
    fn try_lock(&self, name: &SandboxName) -> Option<Lock> {
        let path = self.dir(name).join(LOCK);
        let lock = Lock::try_acquire(&path, Sharing::Exclusive).ok()?.ok()?;
        lock.is_at(&path).then_some(lock)
    }

    /// Returns the abandoned removals of interrupted commands, each with its lock. Sandboxes that a command works on are
    /// skipped.
    ///
    /// # Errors
    /// The directories cannot be read.
    pub fn interrupted(&self) -> Result<Vec<(Removal, Lock)>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let dir = self.dir(&name);
            let is_whole = self.config(&name).exists() && !self.removal(&name).exists();
            if is_whole || !dir.is_dir() {
                continue;
            }
            let Some(lock) = self.try_lock(&name) else {
                continue;
            };
            match fs::read(self.removal(&name)) {
                Ok(text) => match serde_json::from_slice::<Removal>(&text) {
                    Ok(removal) if removal.name == name => found.push((removal, lock)),
                    Ok(removal) => log::warn!(
                        "'{}' is about '{}'; remove it, and 'virt-sandbox-service delete {name}'",
                        self.removal(&name).display(),
                        removal.name
                    ),
                    Err(error) => {
                        log::warn!("reading '{}': {error}", self.removal(&name).display())
                    }
                },
                // Only the directory was created so far. Other files in it are foreign and stay.
                Err(_) => {
                    let _ = fs::remove_file(dir.join(LOCK));
                    let _ = fs::remove_dir(&dir);
                    self.prune();
                }
            }
        }
        Ok(found)
    }

    /// Removes the directories of a sandbox, and our empty parents. The note of what to remove goes last, so
    /// that an interruption can be repaired.
    pub fn delete(&self, name: &SandboxName) {
        let dir = self.dir(name);
        remove_tree(&self.stage(name));
        let _ = fs::remove_file(self.config(name));
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path() != self.removal(name) {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => remove_tree(&entry.path()),
                    Ok(_) | Err(_) => drop(fs::remove_file(entry.path())),
                }
            }
        }
        let _ = fs::remove_file(self.removal(name));
        let _ = fs::remove_dir(&dir);
        self.prune();
    }

    /// Removes the common directories if there is no sandbox left.
    fn prune(&self) {
        let _ = fs::remove_dir(&self.stages);
        if fs::remove_dir(&self.configs).is_ok()
            && let Some(parent) = self.configs.parent()
        {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Name of the lock in a sandbox's directory.
const LOCK: &str = "lock";

/// Number of attempts for a step that collides with another command.
const ATTEMPTS: u32 = 20;

/// Removes a directory with its content, and logs what remains.
pub fn remove_tree(path: &Path) {
    match remove::tree(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("removing '{}': {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
