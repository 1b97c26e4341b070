//! Directories of sandboxes on the host, and their locks.
//!
//! A sandbox is a directory below `/etc/libvirt-sandbox/services`. Its `journal` says what a command
//! has begun and not finished.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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

    /// Returns the copy of the configuration at creation. If the file itself is broken, it tells what to stop and to delete.
    #[must_use]
    pub fn created(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("created.toml")
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

    /// Returns the directory of the files that an upgrade in progress has replaced.
    #[must_use]
    pub fn upgrade(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join("upgrade")
    }

    /// Returns the lock of an upgrade, which is held to its end, also while the sandbox's own lock is free for a restart.
    #[must_use]
    pub fn upgrade_lock(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join(UPGRADE_LOCK)
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

    /// Returns the journal of a sandbox, which exists while a command has something to finish.
    #[must_use]
    pub fn journal(&self, name: &SandboxName) -> PathBuf {
        self.dir(name).join(JOURNAL)
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
        if self.has_lost_config(name) {
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

    /// Returns true if a sandbox has lost its configuration, and no command is creating or deleting it.
    pub(super) fn has_lost_config(&self, name: &SandboxName) -> bool {
        let has_copy = self.started(name).exists() || self.created(name).exists();
        has_copy && !self.config(name).exists() && !self.journal(name).exists()
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
    pub(super) fn lock_if(
        &self,
        name: &SandboxName,
        is_there: impl Fn() -> Result<()>,
    ) -> Result<Lock> {
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

    /// Takes the lock of a sandbox unless a command holds it.
    pub(super) fn try_lock(&self, name: &SandboxName) -> Option<Lock> {
        let path = self.dir(name).join(LOCK);
        let lock = Lock::try_acquire(&path, Sharing::Exclusive).ok()?.ok()?;
        lock.is_at(&path).then_some(lock)
    }

    /// Returns true if a directory has nothing but what a command writes before its first intent and after its last.
    pub(super) fn is_debris(&self, name: &SandboxName) -> bool {
        let is_ours = |entry: fs::DirEntry| {
            let file = entry.file_name();
            file == LOCK || file == UPGRADE_LOCK || atomic::is_abandoned(&file)
        };
        // Most directories are not, which one look tells.
        !self.config(name).exists()
            && fs::read_dir(self.dir(name)).is_ok_and(|entries| entries.flatten().all(is_ours))
    }

    /// Removes the directories of a sandbox. Its journal goes after all else, so that an interruption or a failure can be
    /// repaired, and then its lock.
    ///
    /// # Errors
    /// Something cannot be removed; the rest is, and the journal stays.
    pub(super) fn delete(&self, name: &SandboxName) -> Result<()> {
        let (dir, journal, lock) = (self.dir(name), self.journal(name), self.lock_file(name));
        let removed = |path: &Path| remove::any(path).map_err(Error::io("removing", path));
        let mut results = vec![removed(&self.stage(name))];
        for entry in fs::read_dir(&dir).map_err(Error::io("reading", &dir))? {
            let path = entry.map_err(Error::io("reading", &dir))?.path();
            if path != journal && path != lock {
                results.push(removed(&path));
            }
        }
        Error::of_all(results)?;
        remove::file_durably(&journal).map_err(Error::io("removing", &journal))?;
        removed(&lock)?;
        match fs::remove_dir(&dir) {
            // Another command was about to take the lock.
            Err(_) if self.is_debris(name) => Ok(()),
            removed => removed.map_err(Error::io("removing", &dir)),
        }
    }
}

/// Name of the journal in a sandbox's directory.
const JOURNAL: &str = "journal.json";

/// Name of the lock of an upgrade in a sandbox's directory.
const UPGRADE_LOCK: &str = "upgrade.lock";

/// Name of the lock in a sandbox's directory.
const LOCK: &str = "lock";

/// Number of attempts for a step that collides with another command.
const ATTEMPTS: u32 = 20;

#[cfg(test)]
mod tests;
