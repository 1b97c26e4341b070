//! Detached mounts (`open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`). `nix` has no functions for these system calls.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Copy of one mount that is not attached anywhere.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Copies the mount at `path`, without the mounts below it.
    pub fn copy(path: &Path) -> nix::Result<Self> {
        let path = c_path(path)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: the path ends with a zero, and the kernel reads nothing else.
        let opened =
            unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        let number = i32::try_from(Errno::result(opened)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just opened it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Maps the owners of its files to ids of a user namespace.
    ///
    /// # Errors
    /// `EINVAL` if the filesystem has no support, or the mount is mapped already.
    pub fn map_ids(&self, namespace: impl AsFd) -> nix::Result<()> {
        let number = namespace.as_fd().as_raw_fd();
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(number).map_err(|_| Errno::EBADF)?,
        };
        // SAFETY: the files are open for as long as they are borrowed, the path is empty and ends with a zero, and the
        // kernel reads as many bytes as there are.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        Errno::result(done).map(drop)
    }

    /// Attaches the mount at `target`.
    pub fn attach(self, target: &Path) -> nix::Result<()> {
        let target = c_path(target)?;
        // SAFETY: the file is open, and both paths end with a zero.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(done).map(drop)
    }
}

fn c_path(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}
