//! Paths of the host on which only symlinks made by root are followed.
//!
//! An account may write to parts of the host, such as the state of a service, and create symlinks there that
//! lead to files it may not read. So a symlink is followed only in a directory that nobody but root can write
//! to, and that is reached through such directories alone. Each directory is held open during the walk, so
//! the walk goes through exactly what was checked. systemd calls this a safe transition (`CHASE_SAFE`); the
//! rules here are stricter.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};

use super::{Object, Parents, Result, Root, RootError, failure, relative};

/// Maximum number of symlinks on a path, the same as the kernel's (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;

/// Sysctl that restricts hard links: with 1, only users with write access to a file may link it
/// (`proc_sys_fs(5)`).
const PROTECTED_HARDLINKS: &str = "/proc/sys/fs/protected_hardlinks";

/// Directory on the way to an object.
struct OpenDirectory {
    name: OsString,
    directory: File,
    owner: u32,
    /// Whether only root can have created its entries.
    is_trusted: bool,
}

/// Result of resolving a path.
struct Resolved {
    object: File,
    /// Path without symlinks.
    path: PathBuf,
    /// Owner of the object's directory, or of the object if it is a directory, if others than root can
    /// write to it or to one above it.
    foreign: Option<u32>,
}

impl Root {
    /// Returns the absolute path of what `path` leads to, seen from inside, after following only symlinks
    /// that only root can have made.
    pub fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.resolve_trusted(path, true).map(|traced| traced.path)
    }

    /// Returns whether only root can have written the object that `path` leads to, and put it there.
    pub fn is_of_root(&self, path: &Path) -> Result<bool> {
        match self.resolve_trusted(path, true) {
            Ok(traced) => {
                let metadata = self.metadata_of(&traced.object, path)?;
                Ok(traced.foreign.is_none() && is_of_root(&metadata))
            }
            Err(RootError::Untrusted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the object at `path`; a symlink at the end is the object. Symlinks on the way are followed
    /// if only root can have made them.
    pub(super) fn trusted_object(&self, path: &Path) -> Result<Object> {
        // Nearly no path has a symlink, and then there is nothing to check.
        let object = match self.open_path(path, OFlag::O_NOFOLLOW, Parents::NoSymlinks) {
            Ok(file) => self.object_of(file, path),
            Err(RootError::Link { .. }) => {
                self.object_of(self.resolve_trusted(path, false)?.object, path)
            }
            Err(error) => return Err(error),
        };
        let metadata = object.metadata()?;
        if metadata.is_file() && metadata.nlink() > 1 && !are_names_protected() {
            return self.check_hard_links(path);
        }
        Ok(object)
    }

    /// Returns the object at `path`, which has several hard links, unless somebody may have linked
    /// another user's file there.
    fn check_hard_links(&self, path: &Path) -> Result<Object> {
        let traced = self.resolve_trusted(path, false)?;
        let object = self.object_of(traced.object, path);
        let owner = object.metadata()?.uid();
        match traced.foreign {
            Some(foreign) if foreign != owner => Err(RootError::ForeignName {
                path: self.host_path(path),
            }),
            Some(_) | None => Ok(object),
        }
    }

    fn resolve_trusted(&self, path: &Path, follow_last: bool) -> Result<Resolved> {
        let fail = |errno: Errno| failure("opening", self.host_path(path), errno);
        let top = self.open_path(Path::new("/"), OFlag::O_DIRECTORY, Parents::NoSymlinks)?;
        let mut passed = vec![self.pass(None, OsString::new(), top)?];
        let mut rest = parts(path);
        let mut links = 0;
        loop {
            let Some(last) = passed.last() else {
                return Err(fail(Errno::ENOENT));
            };
            let Some(name) = rest.pop() else {
                let object = last.directory.try_clone();
                return Ok(Resolved {
                    object: object
                        .map_err(|error| failure("opening", self.host_path(path), error))?,
                    path: join(&passed, None),
                    foreign: (!last.is_trusted).then_some(last.owner),
                });
            };
            if name == ".." {
                passed.truncate(passed.len().saturating_sub(1).max(1));
                continue;
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let found = openat(&last.directory, name.as_os_str(), flags, Mode::empty());
            let found = File::from(found.map_err(fail)?);
            let kind = self.metadata_of(&found, path)?.file_type();
            if kind.is_symlink() && (follow_last || !rest.is_empty()) {
                if !last.is_trusted {
                    return Err(RootError::Untrusted {
                        path: self.host_path(path),
                        link: self.host_path(&join(&passed, Some(name))),
                    });
                }
                links += 1;
                if links > MOST_LINKS {
                    return Err(fail(Errno::ELOOP));
                }
                // readlink(2): an empty path means the O_PATH descriptor itself.
                let target = PathBuf::from(readlinkat(&found, "").map_err(fail)?);
                if target.is_absolute() {
                    passed.truncate(1);
                }
                rest.extend(parts(&target));
            } else if rest.is_empty() && !kind.is_dir() {
                return Ok(Resolved {
                    object: found,
                    foreign: (!last.is_trusted).then_some(last.owner),
                    path: join(&passed, Some(name)),
                });
            } else if kind.is_dir() {
                let next = self.pass(Some(last), name, found)?;
                passed.push(next);
            } else {
                return Err(fail(Errno::ENOTDIR));
            }
        }
    }

    fn pass(
        &self,
        above: Option<&OpenDirectory>,
        name: OsString,
        directory: File,
    ) -> Result<OpenDirectory> {
        let metadata = self.metadata_of(&directory, Path::new(&name))?;
        Ok(OpenDirectory {
            is_trusted: above.is_none_or(|above| above.is_trusted) && is_of_root(&metadata),
            owner: metadata.uid(),
            name,
            directory,
        })
    }

    fn metadata_of(&self, file: &File, path: &Path) -> Result<Metadata> {
        let metadata = file.metadata();
        metadata.map_err(|source| failure("examining", self.host_path(path), source))
    }
}

/// Returns whether nobody but root and the caller can write to a file or directory. The group bits are also
/// the mask of an ACL (acl(5)).
fn is_of_root(object: &Metadata) -> bool {
    let (uid, gid) = (geteuid(), getegid());
    let mode = Mode::from_bits_truncate(object.mode());
    let is_own_group = object.gid() == 0 || (!uid.is_root() && object.gid() == gid.as_raw());
    (object.uid() == 0 || object.uid() == uid.as_raw())
        && !mode.contains(Mode::S_IWOTH)
        && (is_own_group || !mode.contains(Mode::S_IWGRP))
}

fn are_names_protected() -> bool {
    fs::read_to_string(PROTECTED_HARDLINKS).is_ok_and(|text| text.trim() != "0")
}

/// Joins the names of the directories, and `name` in the last one.
fn join(passed: &[OpenDirectory], name: Option<OsString>) -> PathBuf {
    let names = passed.iter().skip(1).map(|passed| passed.name.clone());
    let mut path = PathBuf::from("/");
    path.extend(names.chain(name));
    path
}

/// Returns the components of a path in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = relative(path).components().rev();
    parts
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests;
