//! Owner, mode, times and extended attributes of one object.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use crate::sys::path::proc_path;
use crate::sys::root::Object;

/// Extended attributes that are not copied: the label depends on the new place, and EVM's checksum covers the
/// inode number.
const LEFT_OUT: [&str; 2] = ["security.selinux", "security.evm"];

/// ACLs that a new file may have inherited from its directory (acl(5)).
const INHERITED: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Attributes of an object, except its label.
#[derive(Debug)]
pub(in crate::sys) struct Attributes {
    pub(in crate::sys) uid: Uid,
    pub(in crate::sys) gid: Gid,
    pub(in crate::sys) mode: Mode,
    pub(in crate::sys) accessed: TimeSpec,
    pub(in crate::sys) modified: TimeSpec,
    pub(in crate::sys) extended: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// Reads the extended attributes, and takes the rest from `metadata`.
    pub(in crate::sys) fn read(object: &Object, metadata: &Metadata) -> io::Result<Attributes> {
        let path = object.proc_path();
        let mut extended = Vec::new();
        for name in list(&path)? {
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            // `None` if it was removed after it was listed.
            if let Some(value) = xattr::get_deref(&path, &name)? {
                extended.push((name, value));
            }
        }
        Ok(Attributes {
            uid: Uid::from_raw(metadata.uid()),
            gid: Gid::from_raw(metadata.gid()),
            mode: Mode::from_bits_truncate(metadata.mode()),
            accessed: TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
            modified: TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
            extended,
        })
    }

    /// Applies the attributes to anything but a symlink. Returns the names of those that the filesystem
    /// does not support.
    pub(in crate::sys) fn apply(&self, file: &File) -> io::Result<Vec<OsString>> {
        // chown(2) clears setuid, setgid and file capabilities, so it comes first. chmod(2) comes
        // after the extended attributes, because `user.` ones need a writable file; on a file with an
        // ACL it sets the mask, which the group bits of the source showed.
        fchown(file, Some(self.uid), Some(self.gid))?;
        let lost = self.apply_extended(&proc_path(file))?;
        fchmod(file, self.mode)?;
        futimens(file, &self.accessed, &self.modified)?;
        Ok(lost)
    }

    /// Applies the attributes to the symlink `name` in `directory`. A symlink has no mode.
    pub(in crate::sys) fn apply_to_symlink(
        &self,
        directory: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<Vec<OsString>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let link = openat(directory, name, flags, Mode::empty())?;
        fchownat(
            &link,
            "",
            Some(self.uid),
            Some(self.gid),
            AtFlags::AT_EMPTY_PATH,
        )?;
        let lost = self.apply_extended(&proc_path(&link))?;
        let unfollowed = UtimensatFlags::NoFollowSymlink;
        utimensat(directory, name, &self.accessed, &self.modified, unfollowed)?;
        Ok(lost)
    }

    fn apply_extended(&self, path: &Path) -> io::Result<Vec<OsString>> {
        for name in list(path)? {
            let inherited = INHERITED.iter().any(|inherited| name == *inherited);
            if inherited && !self.extended.iter().any(|(own, _)| *own == name) {
                xattr::remove_deref(path, &name)?;
            }
        }
        let mut lost = Vec::new();
        for (name, value) in &self.extended {
            match xattr::set_deref(path, name, value) {
                Ok(()) => {}
                Err(error) if unsupported(&error) => lost.push(name.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }
}

fn list(path: &Path) -> io::Result<Vec<OsString>> {
    match xattr::list_deref(path) {
        Ok(names) => Ok(names.collect()),
        Err(error) if unsupported(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32)
}
