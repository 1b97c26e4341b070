//! Directories of one-shot sandboxes, and their removal after a client was killed.
//!
//! Each sandbox has a directory that is locked for as long as its client lives. The domain ends with the client's
//! connection to libvirt; so an unlocked directory was left by a killed client, and the next client removes it, with the domain
//! if that is still there.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::guest::{self, kernel};
use crate::host::cgroup;
use crate::label;
use crate::run::Connection;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::file::{atomic, private, remove};

/// Directories of this user's sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directories of running sandboxes.
    pub runtime: PathBuf,
    /// Directory of files that can be made anew.
    pub cache: PathBuf,
}

/// Directory of one sandbox, removed on drop.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    lock: Option<Lock>,
    /// Whether it is left for the next run, since the domain may still need it.
    kept: bool,
}

/// Domain that a directory belongs to.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    uri: String,
    name: SandboxName,
    /// Identity of the domain: another one may have the name by now.
    uuid: Uuid,
}

const LOCK: &str = "lock";
const RECORD: &str = "domain.json";
/// Prefix of a directory that is still being made, which no sandbox's name has.
const UNFINISHED: &str = ".new-";
/// Time that making a directory may take.
const HALF_MADE: Duration = Duration::from_secs(60);

impl Places {
    /// Returns the places of this user: below `/var` for root, since a container's first program lies there and many hosts let nothing
    /// in `/run` be executed; else `$XDG_RUNTIME_DIR` and `$XDG_CACHE_HOME`, or below `$HOME`, or below `home` without such a
    /// variable.
    pub fn of_user(is_root: bool, home: &Path) -> Result<Self> {
        if is_root {
            return Ok(Self {
                runtime: guest::RUNTIME.into(),
                cache: kernel::CACHE.into(),
            });
        }
        let variable = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache = variable("XDG_CACHE_HOME").unwrap_or_else(|| {
            variable("HOME")
                .unwrap_or_else(|| home.to_owned())
                .join(".cache")
        });
        let cache = cache.join("virt-sandbox");
        let runtime = match variable("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("virt-sandbox"),
            None => cache.join("run"),
        };
        Ok(Self { runtime, cache })
    }

    /// Removes the directories and domains of killed clients.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.runtime) else {
            return;
        };
        for entry in entries.flatten() {
            if let Err(error) = sweep(&entry.path()) {
                log::warn!(
                    "removing what is left in '{}': {error}",
                    entry.path().display()
                );
            }
        }
    }

    /// Makes the directory of the sandbox `name`, whose domain is `uuid` on `uri`.
    ///
    /// # Errors
    /// Where a sandbox of that name runs, or the directory cannot be made.
    pub fn claim(&self, name: &SandboxName, uuid: Uuid, uri: &str) -> Result<State> {
        let path = self.runtime.join(name.as_str());
        private::directory(&self.runtime, mode()).map_err(Error::io("creating", &self.runtime))?;
        let fresh = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .permissions(fs::Permissions::from_mode(mode()))
            .tempdir_in(&self.runtime)
            .map_err(Error::io("creating", &self.runtime))?;
        let lock = Lock::acquire(&fresh.path().join(LOCK), Sharing::Exclusive, |_| {})
            .map_err(Error::step(format!("making '{}'", path.display())))?;
        let record = Record {
            uri: uri.to_owned(),
            name: name.clone(),
            uuid,
        };
        let text = serde_json::to_vec(&record).map_err(Error::step("noting the domain"))?;
        let note = fresh.path().join(RECORD);
        atomic::write_unsynced(&note, &text, 0o600)?;
        // rename(2) replaces only an empty directory, and none of ours is empty.
        match fs::rename(fresh.path(), &path) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Err(Error::running(format!(
                    "a sandbox '{name}' runs already; choose another --name, or none"
                )));
            }
            Err(error) => return Err(Error::io("creating", &path)(error)),
        }
        // The directory has its final name now.
        let _ = fresh.keep();
        Ok(State {
            path,
            lock: Some(lock),
            kept: false,
        })
    }
}

/// Returns the permissions of a sandbox's directory. root's QEMU runs as another user, who has to pass through. An ordinary user's does
/// not: no other user reaches the sockets, whatever umask libvirt and QEMU make them with.
fn mode() -> u32 {
    match nix::unistd::geteuid().is_root() {
        true => 0o711,
        false => 0o700,
    }
}

impl State {
    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory, so that a later run makes sure that the domain is gone.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.path);
        }
        drop(self.lock.take());
    }
}

fn remove(path: &Path) {
    match remove::tree(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("removing '{}': {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

fn sweep(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Ok(()),
        // Its client was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("reading", path)(error)),
    };
    let lock = path.join(LOCK);
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if name.starts_with(UNFINISHED.as_bytes()) || !lock.exists() {
        // A directory that is being made or removed is unlocked for a moment.
        let age = SystemTime::now()
            .duration_since(
                SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().unsigned_abs()),
            )
            .unwrap_or_default();
        if age > HALF_MADE {
            remove(path);
        }
        return Ok(());
    }
    let held = match Lock::try_acquire(&lock, Sharing::Exclusive) {
        Ok(Ok(held)) => held,
        Ok(Err(_)) => return Ok(()),
        // Its client was faster.
        Err(_) if !lock.exists() => return Ok(()),
        Err(error) => return Err(Error::step("looking whether it is used")(error)),
    };
    if !held.is_at(&lock) {
        return Ok(());
    }
    let note = path.join(RECORD);
    if let Ok(text) = fs::read(&note)
        && let Ok(record) = serde_json::from_slice::<Record>(&text)
    {
        let connection = Connection::parse(&record.uri)?.within(path);
        connection.end(&record.name, record.uuid)?;
        label::apparmor::unload(&record.uuid);
        cgroup::remove(&record.name);
        connection.remove_leftovers(&record.name)?;
    }
    remove(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(root: &Path) -> Places {
        Places {
            runtime: root.join("run"),
            cache: root.join("cache"),
        }
    }

    #[test]
    fn a_directory_goes_with_its_client() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let name: SandboxName = "a".parse().unwrap();
        let state = places
            .claim(&name, Uuid::nil(), "qemu:///embed?root=/x")
            .unwrap();
        let path = state.path().to_owned();
        let error = places
            .claim(&name, Uuid::nil(), "lxc:///")
            .unwrap_err()
            .to_string();
        assert!(error.contains("'a' runs already"), "{error}");
        places.sweep();
        assert!(path.join(LOCK).exists());
        drop(state);
        assert!(fs::read_dir(&places.runtime).unwrap().next().is_none());
    }

    #[test]
    fn a_directory_that_is_being_made_stays() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let unfinished = places.runtime.join(format!("{UNFINISHED}x"));
        fs::create_dir_all(&unfinished).unwrap();
        fs::write(unfinished.join(LOCK), "").unwrap();
        places.sweep();
        assert!(unfinished.join(LOCK).exists());
    }

    #[test]
    fn directories_of_killed_clients_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let places = places(root.path());
        let mut state = places
            .claim(&"b".parse().unwrap(), Uuid::nil(), "qemu:///embed?root=/x")
            .unwrap();
        state.keep();
        drop(state);
        assert!(places.runtime.join("b").exists());
        places.sweep();
        assert!(!places.runtime.join("b").exists());
    }
}
