//! Paths resolved under a root that others may control.
//!
//! A sandbox owns the content of its tree and may create any symlink there while the host works in it. The
//! kernel resolves paths (openat2(2): `/` and `..` stop at the root), so there is no race between check and
//! use. Objects are then accessed through a descriptor, never by name a second time. On the way to an object
//! of a tree no symlink is followed; in the host's own root, only symlinks that only root can have made
//! (`trusted`). This module does not copy.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use crate::error::abbreviate;
use crate::sys::file::atomic::{self, Durability};
use crate::sys::path::{proc_path, relative};

pub mod label;
mod swap;
mod trusted;
mod walk;

pub use walk::WalkEntry;

/// Error of an operation under a root. Paths are those of the host, root included.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("{action} '{}'", abbreviate(path))]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "reading '{}': neither a regular file nor a directory",
        abbreviate(path)
    )]
    NotAFile { path: PathBuf },
    #[error("using '{}': it names no object of its own", abbreviate(path))]
    NoName { path: PathBuf },
    #[error(
        "opening '{}': a symbolic link is on the way, and none is followed there",
        abbreviate(path)
    )]
    Link { path: PathBuf },
    #[error(
        "opening '{}': '{}' is a symbolic link that others than root can have made, so it is not followed; stop who writes there, or \
         put a directory in its place",
        abbreviate(path),
        abbreviate(link)
    )]
    Untrusted { path: PathBuf, link: PathBuf },
    #[error(
        "opening '{}': it has other names, and others than root can have given it this one; set fs.protected_hardlinks=1, or remove it",
        abbreviate(path)
    )]
    ForeignName { path: PathBuf },
}

impl RootError {
    /// Returns whether a component of the path does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
            Self::NotAFile { .. }
            | Self::NoName { .. }
            | Self::Link { .. }
            | Self::Untrusted { .. }
            | Self::ForeignName { .. } => false,
        }
    }
}

type Result<T, E = RootError> = std::result::Result<T, E>;

/// Treatment of symlinks in the parent directories of an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parents {
    /// Symlinks are followed as a process inside the root would follow them.
    InRoot,
    /// Any symlink is an error (`ELOOP`).
    NoSymlinks,
}

/// Owner of the objects below a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A sandbox, whose root user is also number 0 on disk: the owner of a symlink says nothing.
    Sandbox,
    /// The host, where only root is number 0.
    Host,
}

/// Directory that is treated as `/`. Its methods take paths as seen from inside, with or without the leading
/// slash.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    owner: Owner,
}

impl Root {
    /// Opens the directory `path`, the top of a sandbox's tree. Symlinks in `path` itself are followed as
    /// usual.
    pub fn new(path: &Path) -> Result<Root> {
        Self::open(path, Owner::Sandbox)
    }

    /// Opens the directory `path`, which stands for `/` of the host: symlinks that only root can have
    /// made are followed.
    pub fn of_host(path: &Path) -> Result<Root> {
        Self::open(path, Owner::Host)
    }

    fn open(path: &Path, owner: Owner) -> Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())
            .map_err(|errno| failure("opening", path.to_owned(), errno))?;
        Ok(Root {
            fd,
            path: path.to_owned(),
            owner,
        })
    }

    /// Returns `path` as seen on the host: for messages, and for paths without symlinks.
    pub fn host_path(&self, path: &Path) -> PathBuf {
        self.path.join(relative(path))
    }

    /// Returns the object at `path`, following symlinks inside the root.
    pub fn resolve(&self, path: &Path) -> Result<Object> {
        let file = self.open_path(path, OFlag::empty(), Parents::InRoot)?;
        Ok(self.object_of(file, path))
    }

    /// Returns the object at `path`. A symlink at the end is the object. One on the way is followed only
    /// in the host's root, if it is root's.
    pub fn object(&self, path: &Path) -> Result<Object> {
        match self.owner {
            Owner::Sandbox => self.plain_object(path),
            Owner::Host => self.trusted_object(path),
        }
    }

    /// Opens the regular file or directory at `path` for reading, without following any symlink; see
    /// [`Object::open`].
    pub fn open_plain(&self, path: &Path) -> Result<File> {
        let file = self.open_path(path, OFlag::empty(), Parents::NoSymlinks)?;
        self.object_of(file, path).open()
    }

    /// Returns the metadata of the object that `path` leads to, following symlinks.
    pub fn metadata(&self, path: &Path) -> Result<Metadata> {
        self.resolve(path)?.metadata()
    }

    /// Replaces the object at `path` by a file with this content and these permission bits, owned by the
    /// caller. A symlink is replaced, not followed. The content is not synced to disk.
    pub fn write_atomic(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        let (parent, name) = self.parent(path, Parents::InRoot)?;
        atomic::write_at(parent.as_fd(), name, content, mode, Durability::Unsynced)
            .map_err(|source| self.failure("writing", path, source))
    }

    /// Creates the directory `path` and its missing parents with this mode and owner. Existing ones do
    /// not change.
    pub fn create_dir_all(&self, path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
        let mut made = PathBuf::from("/");
        for component in relative(path).components() {
            match component {
                Component::Normal(name) => made.push(name),
                Component::CurDir => continue,
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(RootError::NoName {
                        path: self.host_path(path),
                    });
                }
            }
            self.create_dir(&made, mode, uid, gid)?;
        }
        Ok(())
    }

    fn create_dir(&self, path: &Path, mode: u32, uid: u32, gid: u32) -> Result<()> {
        let fail = |errno| failure("creating directory", self.host_path(path), errno);
        let (parent, name) = self.parent(path, Parents::InRoot)?;
        match mkdirat(&parent, name, Mode::S_IRWXU) {
            Ok(()) => {}
            Err(Errno::EEXIST) if self.metadata(path)?.is_dir() => return Ok(()),
            Err(errno) => return Err(fail(errno)),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::openat(&parent, name, flags, Mode::empty()).map_err(fail)?;
        // Owner first: chown(2) clears the setuid and setgid bits.
        fchown(
            &directory,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
        )
        .map_err(fail)?;
        fchmod(&directory, Mode::from_bits_truncate(mode)).map_err(fail)
    }

    /// Creates a symlink at `path`; fails if something is there.
    pub fn symlink(&self, target: &Path, path: &Path) -> Result<()> {
        let (parent, name) = self.parent(path, Parents::InRoot)?;
        symlinkat(target, &parent, name)
            .map_err(|errno| failure("creating symlink", self.host_path(path), errno))
    }

    /// Changes the owner of the object at `path`; of a symlink, the owner of the link itself.
    pub fn chown(&self, path: &Path, uid: u32, gid: u32) -> Result<()> {
        let object = self.object(path)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&object.file, "", uid, gid, AtFlags::AT_EMPTY_PATH)
            .map_err(|errno| failure("changing the owner of", self.host_path(path), errno))
    }

    /// Opens the parent directory of `path`, and returns it with the last component.
    pub(super) fn parent<'p>(
        &self,
        path: &'p Path,
        parents: Parents,
    ) -> Result<(OwnedFd, &'p OsStr)> {
        let inside = relative(path);
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return Err(RootError::NoName {
                path: self.host_path(path),
            });
        };
        // Not O_PATH: fsync(2) of the directory needs a real descriptor.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok((self.open_with(parent, flags, parents)?, name))
    }

    fn open_path(&self, path: &Path, flags: OFlag, parents: Parents) -> Result<File> {
        let flags = flags | OFlag::O_PATH | OFlag::O_CLOEXEC;
        self.open_with(path, flags, parents).map(File::from)
    }

    fn open_with(&self, path: &Path, flags: OFlag, parents: Parents) -> Result<OwnedFd> {
        let inside = match relative(path) {
            empty if empty.as_os_str().is_empty() => Path::new("."),
            inside => inside,
        };
        let resolve = match parents {
            Parents::InRoot => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            Parents::NoSymlinks => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
        };
        let how = OpenHow::new().flags(flags).resolve(resolve);
        // openat2(2) returns EAGAIN if a rename elsewhere made `..` unsafe to resolve: "try again".
        let mut attempts = 0;
        loop {
            match openat2(&self.fd, inside, how) {
                Err(Errno::EAGAIN) if attempts < 100 => attempts += 1,
                Err(Errno::ELOOP) if matches!(parents, Parents::NoSymlinks) => {
                    return Err(RootError::Link {
                        path: self.host_path(path),
                    });
                }
                result => {
                    return result.map_err(|errno| failure("opening", self.host_path(path), errno));
                }
            }
        }
    }

    fn object_of(&self, file: File, path: &Path) -> Object {
        Object {
            file,
            path: self.host_path(path),
        }
    }

    fn failure(&self, action: &'static str, path: &Path, source: io::Error) -> RootError {
        failure(action, self.host_path(path), source)
    }
}

/// Filesystem object held by an `O_PATH` descriptor. It stays the same object whatever happens to its name.
#[derive(Debug)]
pub struct Object {
    file: File,
    path: PathBuf,
}

impl Object {
    /// Returns the metadata of the object itself.
    pub fn metadata(&self) -> Result<Metadata> {
        let metadata = self.file.metadata();
        metadata.map_err(|source| failure("examining", self.path.clone(), source))
    }

    /// Opens a regular file or directory for reading. Devices and fifos are refused, because opening them
    /// has effects.
    pub fn open(&self) -> Result<File> {
        let kind = self.metadata()?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            return Err(RootError::NotAFile {
                path: self.path.clone(),
            });
        }
        File::open(self.proc_path()).map_err(|source| failure("opening", self.path.clone(), source))
    }

    /// Returns the target of a symlink.
    pub fn read_link(&self) -> Result<PathBuf> {
        // readlink(2): an empty path means the O_PATH descriptor itself.
        let target = readlinkat(&self.file, "").map(PathBuf::from);
        target.map_err(|errno| failure("reading symlink", self.path.clone(), errno))
    }

    /// Returns the names in a directory, sorted.
    pub fn names(&self) -> Result<Vec<OsString>> {
        let fail = |source| failure("listing", self.path.clone(), source);
        let mut names = fs::read_dir(self.proc_path())
            .and_then(|entries| {
                entries
                    .map(|e| Ok(e?.file_name()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(fail)?;
        names.sort();
        Ok(names)
    }

    /// Returns a path by which calls that follow symlinks reach exactly this object, even if it is a
    /// symlink itself: the links of `/proc/self/fd` are not text but lead to the object (proc(5)).
    pub(super) fn proc_path(&self) -> PathBuf {
        proc_path(&self.file)
    }
}

fn failure(action: &'static str, path: PathBuf, source: impl Into<io::Error>) -> RootError {
    RootError::Io {
        action,
        path,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
