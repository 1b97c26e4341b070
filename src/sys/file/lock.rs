//! Advisory locks on files.
//!
//! The lock is flock(2), so the kernel releases it when its holder dies. A process that removes a lock file
//! leaves waiters with a lock that nobody else can find: they check with [`Lock::is_at`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

/// Mode of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Others may hold the lock in the same mode.
    Shared,
    /// Nobody else may hold the lock.
    Exclusive,
}

/// Lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
}

/// Lock that [`Lock::acquire`] is waiting for. Prints as a sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The lock file.
    pub path: PathBuf,
    /// Process that last took it exclusively, if it wrote its number.
    pub holder: Option<u32>,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        write!(f, "'{path}' is held by another virt-sandbox command")?;
        match self.holder {
            Some(pid) => write!(f, " (process {pid})"),
            None => Ok(()),
        }
    }
}

/// Error of taking a lock.
#[derive(Debug, thiserror::Error)]
#[error("locking '{path}'")]
pub struct LockError {
    /// The lock file.
    pub path: PathBuf,
    /// Cause, from the kernel.
    #[source]
    pub source: io::Error,
}

impl Lock {
    /// Returns whether the locked file is still the one at `path`: it may have been removed and created
    /// anew while this process waited.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(held), Ok(there)) => identity(held) == identity(there),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    /// Takes the lock at `path`, and creates the file (mode 0600) if there is none. If the lock is held,
    /// calls `waiting` once and then blocks.
    pub fn acquire(
        path: &Path,
        sharing: Sharing,
        waiting: impl FnOnce(&Held),
    ) -> Result<Lock, LockError> {
        let file = match Self::attempt(path, sharing)? {
            Ok(lock) => return Ok(lock),
            Err((mut file, held)) => {
                waiting(&held);
                loop {
                    match Flock::lock(file, sharing.blocking()) {
                        Ok(locked) => break locked,
                        Err((again, Errno::EINTR)) => file = again,
                        Err((_, errno)) => return Err(failure(path, errno)),
                    }
                }
            }
        };
        Self::held(file, path, sharing)
    }

    /// Takes the lock if it is free; otherwise returns its holder.
    pub fn try_acquire(path: &Path, sharing: Sharing) -> Result<Result<Lock, Held>, LockError> {
        Ok(Self::attempt(path, sharing)?.map_err(|(_, held)| held))
    }

    fn attempt(path: &Path, sharing: Sharing) -> Result<Result<Lock, (File, Held)>, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)
            .map_err(|source| failure(path, source))?;
        match Flock::lock(file, sharing.immediate()) {
            Ok(locked) => Self::held(locked, path, sharing).map(Ok),
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                // The number is informative only: nothing depends on reading it.
                let _ = (&mut file).take(20).read_to_string(&mut text);
                let held = Held {
                    path: path.to_owned(),
                    holder: text.trim().parse().ok(),
                };
                Ok(Err((file, held)))
            }
            Err((_, errno)) => Err(failure(path, errno)),
        }
    }

    fn held(mut file: Flock<File>, path: &Path, sharing: Sharing) -> Result<Lock, LockError> {
        if sharing == Sharing::Exclusive {
            let pid = format!("{}\n", std::process::id());
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .and_then(|_| file.write_all(pid.as_bytes()))
                .map_err(|source| failure(path, source))?;
        }
        Ok(Lock { file })
    }
}

impl Sharing {
    fn blocking(self) -> FlockArg {
        match self {
            Self::Shared => FlockArg::LockShared,
            Self::Exclusive => FlockArg::LockExclusive,
        }
    }

    fn immediate(self) -> FlockArg {
        match self {
            Self::Shared => FlockArg::LockSharedNonblock,
            Self::Exclusive => FlockArg::LockExclusiveNonblock,
        }
    }
}

fn failure(path: &Path, source: impl Into<io::Error>) -> LockError {
    LockError {
        path: path.to_owned(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn sharing_table() {
        use Sharing::{Exclusive, Shared};
        let cases = [
            (Shared, Shared, true),
            (Shared, Exclusive, false),
            (Exclusive, Shared, false),
            (Exclusive, Exclusive, false),
        ];
        for (first, second, both) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lock");
            let held = Lock::try_acquire(&path, first).unwrap().unwrap();
            let again = Lock::try_acquire(&path, second).unwrap();
            assert_eq!(again.is_ok(), both, "{first:?} then {second:?}");
            drop((held, again));
            assert!(Lock::try_acquire(&path, Exclusive).unwrap().is_ok());
        }
    }

    #[test]
    fn the_notice_names_the_holder_and_the_wait_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first =
            Lock::acquire(&path, Sharing::Exclusive, |_| panic!("nobody holds it")).unwrap();
        let (sender, receiver) = mpsc::channel();
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || {
                Lock::acquire(&path, Sharing::Exclusive, |held| {
                    sender.send(held.clone()).unwrap()
                })
            }
        });
        let held = receiver.recv().unwrap();
        assert_eq!(held.holder, Some(std::process::id()));
        assert!(held.to_string().ends_with(&format!(
            "is held by another virt-sandbox command (process {})",
            std::process::id()
        )));
        drop(first);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn a_symlink_is_not_a_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(Lock::try_acquire(&path, Sharing::Shared).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
