//! Atomic moves and exchanges of objects between two roots on one filesystem.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, Uid, fchownat, syncfs};

use crate::sys::fault;

use super::{Object, Parents, Result, Root, failure};

impl Root {
    /// Returns the object at `path` without following any symlink; a symlink at the end is the object.
    pub fn plain_object(&self, path: &Path) -> Result<Object> {
        let file = self.open_path(path, OFlag::O_NOFOLLOW, Parents::NoSymlinks)?;
        Ok(self.object_of(file, path))
    }

    /// Returns whether an object exists at `path`, without following any symlink.
    pub fn has(&self, path: &Path) -> Result<bool> {
        match self.plain_object(path) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves the object at `from` to `to` in `other`; fails if something is there. No symlink is
    /// followed.
    pub fn move_to(&self, from: &Path, other: &Root, to: &Path) -> Result<()> {
        self.rename(from, other, to, RenameFlags::RENAME_NOREPLACE)
    }

    /// Exchanges the objects at `path` and at `with` in `other` atomically. No symlink is followed.
    pub fn exchange(&self, path: &Path, other: &Root, with: &Path) -> Result<()> {
        self.rename(path, other, with, RenameFlags::RENAME_EXCHANGE)
    }

    fn rename(&self, from: &Path, other: &Root, to: &Path, flags: RenameFlags) -> Result<()> {
        let (parent, name) = self.parent(from, Parents::NoSymlinks)?;
        let (other_parent, other_name) = other.parent(to, Parents::NoSymlinks)?;
        fault::point().map_err(|_| failure("moving", self.host_path(from), Errno::EIO))?;
        renameat2(&parent, name, &other_parent, other_name, flags)
            .map_err(|errno| failure("moving", self.host_path(from), errno))
    }

    /// Writes everything of the root's filesystem to disk (syncfs(2)).
    pub fn sync(&self) -> Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        self.open_with(Path::new("/"), flags, Parents::NoSymlinks)
            .and_then(|directory| {
                syncfs(&directory).map_err(|errno| failure("writing", self.path.clone(), errno))
            })
    }
}

impl Object {
    /// Sets mode and owner of the object; of a symlink, only the owner.
    pub fn set_attributes(&self, mode: u32, uid: u32, gid: u32) -> Result<()> {
        let fail = |errno| failure("changing the mode of", self.path.clone(), errno);
        fault::point().map_err(|_| fail(Errno::EIO))?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        // Owner first: chown(2) clears the setuid and setgid bits.
        fchownat(&self.file, "", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(fail)?;
        if self.metadata()?.is_symlink() {
            return Ok(());
        }
        let mode = Mode::from_bits_truncate(mode);
        let follow = FchmodatFlags::FollowSymlink;
        fchmodat(&self.file, &self.proc_path(), mode, follow).map_err(fail)
    }

    /// Returns the inode number of the object.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.metadata()?.ino())
    }
}
