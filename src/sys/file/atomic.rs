//! Files that are written completely or not at all.
//!
//! The new content is written to a temporary file *in the same directory*, because a rename is atomic only
//! within one filesystem and because the label that a security module gives to a new file depends on its
//! directory. This module does not resolve paths under a root: [`crate::sys::root::Root::write_atomic`] does,
//! and then calls it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Pid, UnlinkatFlags, fsync, unlinkat};

use crate::sys::fault;

/// Error of writing a file; its previous content is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("writing '{path}'")]
pub struct WriteError {
    /// File that was to be written.
    pub path: PathBuf,
    /// Cause, from the kernel.
    #[source]
    pub source: io::Error,
}

/// Replaces `path` by a file with the given content and permission bits, independent of the umask.
///
/// A symlink at `path` is replaced, not followed. The content is on disk when this returns.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
    write_path(path, content, mode, Durability::Synced)
}

/// Replaces `path` like [`write()`], without waiting for the disk: for content that can be regenerated.
pub fn write_unsynced(path: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
    write_path(path, content, mode, Durability::Unsynced)
}

/// Point in time at which a file is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sys) enum Durability {
    /// Before the call returns.
    Synced,
    /// When the kernel writes it back: a sync can take long.
    Unsynced,
}

fn write_path(
    path: &Path,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> Result<(), WriteError> {
    let fail = |source| WriteError {
        path: path.to_owned(),
        source,
    };
    let name = path
        .file_name()
        .ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let directory = File::open(parent).map_err(fail)?;
    write_at(directory.as_fd(), name, content, mode, durability).map_err(fail)
}

/// Replaces the file `name` in an open directory, see [`write`].
pub(in crate::sys) fn write_at(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    content: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    fault::point()?;
    let temporary = temporary_name();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    let mut file = File::from(openat(directory, temporary.as_str(), flags, private)?);
    let written = (|| {
        file.write_all(content)?;
        fchmod(&file, Mode::from_bits_truncate(mode))?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fault::point()?;
        renameat(directory, temporary.as_str(), directory, name)?;
        Ok(())
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = unlinkat(directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        return written;
    }
    match durability {
        // Without this, the rename itself may be lost in a crash: fsync(2).
        Durability::Synced => Ok(fsync(directory)?),
        Durability::Unsynced => Ok(()),
    }
}

/// Returns a unique temporary name. It begins with a dot, so that the directories of snippets in `/etc`
/// ignore it, and does not contain the final name, which may already be NAME_MAX long.
pub(in crate::sys) fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}.{count}{SUFFIX}", std::process::id())
}

/// Parts of the name of a temporary file before and after its numbers.
const PREFIX: &str = ".virt-sandbox.";
const SUFFIX: &str = ".tmp";

/// Returns true if a file of this name was left by a process that ended while it wrote: nobody will rename it any more. So was
/// one with the number of this process, unless another thread is writing in the directory.
#[must_use]
pub fn is_abandoned(name: &OsStr) -> bool {
    let numbers = name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
    let writer = numbers.and_then(|numbers| numbers.split_once('.')?.0.parse().ok());
    writer.map(Pid::from_raw).is_some_and(|writer| {
        let has_ended = || kill(writer, None) == Err(Errno::ESRCH);
        writer == Pid::this() || (writer.as_raw() > 0 && has_ended())
    })
}

/// Returns the abandoned temporary files in a directory; a missing one has none.
pub fn abandoned(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if is_abandoned(&entry.file_name()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (content, mode) in [("one", 0o600), ("two", 0o644), ("", 0o666)] {
            write(&path, content.as_bytes(), mode).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
                mode
            );
        }
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn only_files_of_dead_writers_are_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let dead = format!(".virt-sandbox.{}.3.tmp", ended.id());
        let names = [
            &*dead,
            ".virt-sandbox.1.1.tmp",
            ".virt-sandbox.json",
            ".virt-sandbox.0.1.tmp",
            ".virt-sandbox.x.1.tmp",
            "lock",
        ];
        for name in names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(abandoned(dir.path()).unwrap(), [dir.path().join(dead)]);
        assert!(abandoned(&dir.path().join("missing")).unwrap().is_empty());
    }

    #[test]
    fn replaces_a_symlink_and_spares_its_target() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("target"), "old").unwrap();
        symlink("target", dir.path().join("link")).unwrap();
        write(&dir.path().join("link"), b"new", 0o644).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("target")).unwrap(),
            "old"
        );
        assert_eq!(fs::read_to_string(dir.path().join("link")).unwrap(), "new");
    }

    #[test]
    fn a_failure_leaves_the_directory_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        let error = write(&dir.path().join("taken"), b"x", 0o644).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
        assert!(write(&dir.path().join("no/such"), b"x", 0o644).is_err());
    }
}
