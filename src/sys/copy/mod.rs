//! Exact copy of filesystem objects from one root into another.
//!
//! Kept: content with its holes, owner, mode with setuid and sticky bits, times, extended attributes (thus
//! POSIX ACLs and file capabilities), and hard links among the objects of one [`Copier`]. Symlinks are copied
//! as symlinks. Not kept: the label (`security.selinux`), which depends on the new place; inode flags;
//! sockets and devices, which are reported instead. The caller decides what to copy.
//!
//! Either side may be controlled by a sandbox, or by an account of the host. Sources are resolved by
//! [`Root::object`]; in the destination no symlink is followed, and every object is changed through a
//! descriptor or by its name in an open directory. Until [`Copier::finish`], only the owner can access new
//! directories.

pub(super) mod attributes;
pub(super) mod data;
mod report;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, mkfifoat, symlinkat, unlinkat};

use crate::error::{ErrorKind, LowerError, abbreviate};
use crate::sys::file::atomic::temporary_name;
use crate::sys::root::{Object, Parents, Root, RootError, WalkEntry};
use attributes::Attributes;

pub use report::{Copied, Omission, Report, Skipped};

/// Copies the content of one open file to another, with its holes, sharing blocks where the filesystem can.
/// The copy is the state of `from` at one moment.
///
/// # Errors
/// If the file does not stop changing, there is no room, or `stop` returns true.
pub fn content(from: &File, to: &File, stop: &dyn Fn() -> bool) -> io::Result<()> {
    data::copy(from, to, stop).map(drop)
}

/// Error of a copy. Paths are those of the host.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("copying '{}' to '{}'", abbreviate(from), abbreviate(to))]
    Io {
        from: PathBuf,
        to: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "copying '{}': no space or quota left for '{}'",
        abbreviate(from),
        abbreviate(to)
    )]
    Full { from: PathBuf, to: PathBuf },
    #[error("copying '{}': '{}' exists already", abbreviate(from), abbreviate(to))]
    Exists { from: PathBuf, to: PathBuf },
    #[error(
        "copying '{}': it was written to while it was read, stop its writer first",
        abbreviate(path)
    )]
    Changed { path: PathBuf },
    #[error("copying '{}': the destination lies inside it", abbreviate(path))]
    IntoItself { path: PathBuf },
    #[error("interrupted")]
    Interrupted,
}

impl LowerError for CopyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Changed { .. } => ErrorKind::Busy,
            Self::IntoItself { .. } => ErrorKind::Refused,
            Self::Root(_) | Self::Io { .. } | Self::Full { .. } => ErrorKind::Io,
        }
    }
}

type Result<T, E = CopyError> = std::result::Result<T, E>;

/// Treatment of an existing object at the destination. Directories are always merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Fail.
    Refuse,
    /// Replace it atomically.
    Replace,
}

/// Identity of a file: device and inode.
type Identity = (u64, u64);

/// Copies objects one by one, and keeps the state between them: hard links, and directories that get their
/// final attributes at the end.
#[derive(Debug)]
#[must_use = "directories get their owner, mode and times in `finish`"]
pub struct Copier<'r> {
    source: &'r Root,
    destination: &'r Root,
    existing: Existing,
    stop: Stop<'r>,
    /// First destination of a file with several names.
    links: HashMap<Identity, PathBuf>,
    directories: Vec<Directory>,
    made: HashSet<Identity>,
    report: Report,
}

/// Callback that interrupts a copy.
struct Stop<'r>(&'r dyn Fn() -> bool);

impl std::fmt::Debug for Stop<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stop")
    }
}

#[derive(Debug)]
struct Directory {
    from: PathBuf,
    to: PathBuf,
    identity: Identity,
    attributes: Attributes,
}

impl<'r> Copier<'r> {
    /// Creates a copier from one root to another, which may be the same.
    pub fn new(source: &'r Root, destination: &'r Root, existing: Existing) -> Self {
        Copier {
            source,
            destination,
            existing,
            stop: Stop(&|| false),
            links: HashMap::new(),
            directories: Vec::new(),
            made: HashSet::new(),
            report: Report::default(),
        }
    }

    /// Makes the copier call `stop` regularly, also in the middle of a large file, and fail if it returns
    /// true.
    pub fn stop_when(mut self, stop: &'r dyn Fn() -> bool) -> Self {
        self.stop = Stop(stop);
        self
    }

    /// Copies the one object at `from` (of a directory, none of its entries) to `to`. The parent
    /// directory of `to` has to exist, without a symlink on the way.
    pub fn copy_object(&mut self, from: &Path, to: &Path) -> Result<Copied> {
        let Some((object, metadata)) = self.look(from)? else {
            return Ok(self.skip(from, Omission::Vanished));
        };
        self.copy_opened(&object, &metadata, from, to)
    }

    /// Copies an object that a walk through the source has found; otherwise like
    /// [`copy_object`](Self::copy_object).
    pub fn copy_found(&mut self, found: &WalkEntry, to: &Path) -> Result<Copied> {
        self.copy_opened(&found.object, &found.metadata, &found.path, to)
    }

    /// Sets owner, mode, attributes and times of the copied directories, and returns the report.
    pub fn finish(mut self) -> Result<Report> {
        // Children first: changing a child changes the times of its directory.
        for directory in std::mem::take(&mut self.directories).into_iter().rev() {
            let Directory {
                from,
                to,
                identity,
                attributes,
            } = directory;
            let fail = |source| self.failure(&from, &to, source);
            let (parent, name) = self.destination.parent(&to, Parents::NoSymlinks)?;
            let opened = open_directory(&parent, name).map_err(|e| fail(e.into()))?;
            if identity_of(&opened.metadata().map_err(fail)?) != identity {
                return Err(fail(Errno::ESTALE.into()));
            }
            let lost = attributes.apply(&opened).map_err(fail)?;
            self.note_lost(&from, lost);
        }
        Ok(self.report)
    }

    fn look(&self, from: &Path) -> Result<Option<(Object, Metadata)>> {
        match self.source.object(from) {
            Ok(object) => {
                let metadata = object.metadata()?;
                Ok(Some((object, metadata)))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn copy_opened(
        &mut self,
        object: &Object,
        metadata: &Metadata,
        from: &Path,
        to: &Path,
    ) -> Result<Copied> {
        let kind = metadata.file_type();
        let copied = if kind.is_file() {
            self.copy_file(object, metadata, from, to)?
        } else if kind.is_dir() {
            self.copy_directory(object, metadata, from, to)?;
            Copied::Directory
        } else if kind.is_symlink() {
            self.copy_symlink(object, metadata, from, to)?;
            Copied::Symlink
        } else if kind.is_fifo() {
            self.copy_fifo(object, metadata, from, to)?;
            Copied::Fifo
        } else if kind.is_socket() {
            return Ok(self.skip(from, Omission::Socket));
        } else if kind.is_block_device() {
            return Ok(self.skip(from, Omission::BlockDevice));
        } else {
            return Ok(self.skip(from, Omission::CharDevice));
        };
        self.report.objects += 1;
        Ok(copied)
    }

    fn copy_file(
        &mut self,
        object: &Object,
        metadata: &Metadata,
        from: &Path,
        to: &Path,
    ) -> Result<Copied> {
        if let Some(first) = self.links.get(&identity_of(metadata)) {
            let (parent, name) = self.destination.parent(first, Parents::NoSymlinks)?;
            self.place(from, to, |directory, temporary| {
                linkat(&parent, name, directory, temporary, AtFlags::empty())?;
                Ok(())
            })?;
            return Ok(Copied::HardLink);
        }
        let reader = object.open()?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let (size, lost) = self.place(from, to, |directory, temporary| {
            let private = Mode::S_IRUSR | Mode::S_IWUSR;
            let writer = File::from(openat(directory, temporary, flags, private)?);
            let metadata = data::copy(&reader, &writer, self.stop.0)?;
            let lost = Attributes::read(object, &metadata)?.apply(&writer)?;
            Ok((metadata.len(), lost))
        })?;
        self.note_lost(from, lost);
        self.report.bytes += size;
        if metadata.nlink() > 1 {
            self.links.insert(identity_of(metadata), to.to_owned());
        }
        Ok(Copied::File { size })
    }

    fn copy_symlink(
        &mut self,
        object: &Object,
        metadata: &Metadata,
        from: &Path,
        to: &Path,
    ) -> Result<()> {
        let target = object.read_link()?;
        let lost = self.place(from, to, |directory, temporary| {
            symlinkat(&target, directory, temporary)?;
            Attributes::read(object, metadata)?.apply_to_symlink(directory, temporary)
        })?;
        self.note_lost(from, lost);
        Ok(())
    }

    fn copy_fifo(
        &mut self,
        object: &Object,
        metadata: &Metadata,
        from: &Path,
        to: &Path,
    ) -> Result<()> {
        let lost = self.place(from, to, |directory, temporary| {
            mkfifoat(directory, temporary, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // fifo(7): a non-blocking open for reading does not wait.
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fifo = File::from(openat(directory, temporary, flags, Mode::empty())?);
            Attributes::read(object, metadata)?.apply(&fifo)
        })?;
        self.note_lost(from, lost);
        Ok(())
    }

    fn copy_directory(
        &mut self,
        object: &Object,
        metadata: &Metadata,
        from: &Path,
        to: &Path,
    ) -> Result<()> {
        let own = identity_of(metadata);
        let fail = |source| self.failure(from, to, source);
        let (parent, name) = self.destination.parent(to, Parents::NoSymlinks)?;
        match mkdirat(&parent, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
        let opened = open_directory(&parent, name).map_err(|errno| {
            let taken = matches!(errno, Errno::ENOTDIR | Errno::ELOOP);
            fail(if taken { Errno::EEXIST } else { errno }.into())
        })?;
        let identity = identity_of(&opened.metadata().map_err(fail)?);
        if identity == own || self.made.contains(&own) {
            return Err(CopyError::IntoItself {
                path: self.source.host_path(from),
            });
        }
        let attributes = Attributes::read(object, metadata).map_err(fail)?;
        if self.made.insert(identity) {
            self.directories.push(Directory {
                from: from.to_owned(),
                to: to.to_owned(),
                identity,
                attributes,
            });
        }
        Ok(())
    }

    /// Lets `make` create an object under a temporary name beside `to` and then renames it, so that an
    /// interrupted copy never has the final name.
    fn place<T>(
        &self,
        from: &Path,
        to: &Path,
        make: impl FnOnce(&OwnedFd, &OsStr) -> io::Result<T>,
    ) -> Result<T> {
        let (directory, name) = self.destination.parent(to, Parents::NoSymlinks)?;
        let temporary = OsString::from(temporary_name());
        let placed = make(&directory, &temporary).and_then(|made| {
            let flags = match self.existing {
                Existing::Refuse => RenameFlags::RENAME_NOREPLACE,
                Existing::Replace => RenameFlags::empty(),
            };
            renameat2(&directory, temporary.as_os_str(), &directory, name, flags)?;
            Ok(made)
        });
        // rename(2) does nothing if both names are hard links of one file, so the temporary name may
        // still exist.
        let _ = unlinkat(
            &directory,
            temporary.as_os_str(),
            UnlinkatFlags::NoRemoveDir,
        );
        placed.map_err(|source| self.failure(from, to, source))
    }

    fn skip(&mut self, path: &Path, what: Omission) -> Copied {
        self.report.skipped.push(Skipped {
            path: path.to_owned(),
            what: what.clone(),
        });
        Copied::Skipped(what)
    }

    fn note_lost(&mut self, path: &Path, attributes: Vec<OsString>) {
        for name in attributes {
            self.skip(path, Omission::Attribute(name));
        }
    }

    fn failure(&self, from: &Path, to: &Path, source: io::Error) -> CopyError {
        let from = self.source.host_path(from);
        let to = self.destination.host_path(to);
        if data::was_stopped(&source) {
            return CopyError::Interrupted;
        }
        if data::was_changed(&source) {
            return CopyError::Changed { path: from };
        }
        let is = |errno: Errno| source.raw_os_error() == Some(errno as i32);
        if is(Errno::ENOSPC) || is(Errno::EDQUOT) {
            CopyError::Full { from, to }
        } else if is(Errno::EEXIST) {
            CopyError::Exists { from, to }
        } else {
            CopyError::Io { from, to, source }
        }
    }
}

fn identity_of(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

fn open_directory(parent: &OwnedFd, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(File::from)
}

#[cfg(test)]
mod tests;
