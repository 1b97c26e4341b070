//! Files put into the sandbox: copies of the host's, and those of the guest config.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use super::path::{LastLink, fd_path, locate, make_dir, make_parent};
use super::place::Place;
use crate::config::{self, IdMap, Include};

/// Copies a file, a link or a whole directory. An existing directory is merged with the source; anything else is replaced.
pub fn include(place: &Place, wanted: &Include) -> Result<()> {
    let doing = || format!("copying to '{}'", wanted.target.display());
    let source = place.staged(&wanted.source).with_context(doing)?;
    let target = locate(&place.root, &wanted.target, LastLink::Keep).with_context(doing)?;
    let copied = make_parent(&target).and_then(|()| {
        let from = Named::new(&source)?;
        copy(&from, &Named::new(&target)?, place.ids())
    });
    match copied {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => bail!(
            "copying to '{}': read-only, and no writable mount covers it",
            wanted.target.display()
        ),
        outcome => outcome.with_context(doing),
    }
}

/// Writes a file of the guest config.
pub fn write(file: &config::File) -> Result<()> {
    let doing = || format!("writing '{}'", file.path.display());
    if !file.path.is_absolute() {
        bail!("writing '{}': not an absolute path", file.path.display());
    }
    if let Some(parent) = file.path.parent() {
        make_dir(parent, 0o755)?;
    }
    fs::write(&file.path, &file.content).with_context(doing)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode)).with_context(doing)
}

/// A name in an open directory. Renames of the directories above do not change what it means.
struct Named {
    directory: OwnedFd,
    name: OsString,
}

impl Named {
    /// Opens the parent directory of a path, following links.
    fn new(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EISDIR.into());
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            directory: open(parent, flags, Mode::empty())?,
            name: name.to_owned(),
        })
    }

    /// Opens the file without following a link.
    fn open(&self, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(openat(&self.directory, self.name.as_os_str(), flags, private)?.into())
    }

    /// Returns a name in an open directory.
    fn within(opened: &File, name: OsString) -> io::Result<Self> {
        Ok(Self {
            directory: opened.try_clone()?.into(),
            name,
        })
    }
}

/// Copies `source` to `target`. Either may change meanwhile, so each file is opened once and no link is followed.
fn copy(source: &Named, target: &Named, ids: Option<IdMap>) -> io::Result<()> {
    let object = source.open(OFlag::O_PATH)?;
    let metadata = object.metadata()?;
    let kind = metadata.file_type();
    let (to, name) = (&target.directory, target.name.as_os_str());
    let present = fstatat(to, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
    let is_directory =
        |stat: FileStat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    let has_directory = present.is_some_and(is_directory);
    if present.is_some() && !has_directory {
        unlinkat(to, name, UnlinkatFlags::NoRemoveDir)?;
    }
    let made = if kind.is_dir() {
        if !has_directory {
            mkdirat(to, name, Mode::S_IRWXU)?;
        }
        let made = target.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        for entry in fs::read_dir(fd_path(&object))? {
            let name = entry?.file_name();
            copy(
                &Named::within(&object, name.clone())?,
                &Named::within(&made, name)?,
                ids,
            )?;
        }
        Some(made)
    } else if kind.is_symlink() {
        // An empty path means the open link itself (readlink(2)).
        symlinkat(readlinkat(&object, "")?.as_os_str(), to, name)?;
        None
    } else if kind.is_file() {
        let mut made = target.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?;
        io::copy(&mut File::open(fd_path(&object))?, &mut made)?;
        Some(made)
    } else {
        return Err(io::Error::other(format!(
            "'{}' is no file, link or directory",
            source.name.display()
        )));
    };
    copy_metadata(target, made.as_ref(), &metadata, ids)
}

/// Copies owner, mode and times. A share may refuse a change of the owner; the file then belongs to the server of the share.
fn copy_metadata(
    target: &Named,
    made: Option<&File>,
    like: &Metadata,
    ids: Option<IdMap>,
) -> io::Result<()> {
    // A file whose owner has no id in the sandbox becomes root's.
    let inside = |id| ids.map_or(id, |ids| ids.on_host(id).unwrap_or(ids.first));
    let (to, name) = (&target.directory, target.name.as_os_str());
    let (uid, gid) = (
        Uid::from_raw(inside(like.uid())),
        Gid::from_raw(inside(like.gid())),
    );
    match fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Errno::EPERM | Errno::EACCES) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(made) = made {
        // After the owner: chown(2) clears set-user-ID.
        made.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
    }
    let accessed = TimeSpec::new(like.atime(), like.atime_nsec());
    let modified = TimeSpec::new(like.mtime(), like.mtime_nsec());
    match utimensat(
        to,
        name,
        &accessed,
        &modified,
        UtimensatFlags::NoFollowSymlink,
    ) {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn included(from: &Path, to: &Path) -> io::Result<()> {
        copy(&Named::new(from)?, &Named::new(to)?, None)
    }

    #[test]
    fn directories_are_merged_and_all_else_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["from/below", "to/below", "to/kept"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("secret"), "secret").unwrap();
        fs::write(path("from/below/file"), "new").unwrap();
        fs::write(path("from/link"), "a file").unwrap();
        symlink("../../secret", path("from/below/link")).unwrap();
        fs::set_permissions(path("from/link"), fs::Permissions::from_mode(0o640)).unwrap();
        // Links in the target that lead elsewhere.
        symlink("../../secret", path("to/below/file")).unwrap();
        symlink("../secret", path("to/link")).unwrap();
        included(&path("from"), &path("to")).unwrap();
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        assert_eq!(read("to/below/file"), "new");
        assert_eq!(
            (read("to/link"), read("secret")),
            ("a file".into(), "secret".into())
        );
        let mode = fs::symlink_metadata(path("to/link")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert!(path("to/kept").is_dir() && path("to/below/link").is_symlink());
        nix::unistd::mkfifo(&path("from/fifo"), Mode::S_IRWXU).unwrap();
        assert!(included(&path("from"), &path("to")).is_err());
        assert!(included(&path("from/below"), &path("to/link/x")).is_err());
    }

    #[test]
    fn a_directory_that_becomes_a_link_meanwhile_is_not_followed() {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        use std::sync::atomic::{AtomicBool, Ordering};

        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for (name, text) in [("from/d", "own"), ("secret", "secret")] {
            fs::create_dir_all(path(name)).unwrap();
            for index in 0..20 {
                fs::write(path(name).join(index.to_string()), text).unwrap();
            }
        }
        symlink(path("secret"), path("from/link")).unwrap();
        let is_over = AtomicBool::new(false);
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, other) = (path("from/d"), path("from/link"));
                while !is_over.load(Ordering::Relaxed) {
                    let flags = RenameFlags::RENAME_EXCHANGE;
                    renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).unwrap();
                }
            });
            let mut found = String::new();
            for round in 0..300 {
                let to = path(&format!("to{round}"));
                let _ = included(&path("from"), &to);
                for file in ["d", "link"].map(|name| to.join(name)) {
                    let is_link = file.is_symlink();
                    for entry in fs::read_dir(file).into_iter().flatten().flatten() {
                        if !is_link {
                            found += &fs::read_to_string(entry.path()).unwrap();
                        }
                    }
                }
            }
            is_over.store(true, Ordering::Relaxed);
            found
        });
        assert!(found.contains("own") && !found.contains("secret"));
    }
}
