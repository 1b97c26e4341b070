//! Detached bind mount of an untrusted directory, for a program of the host to read.
//!
//! The program opens files by name, and others can put symlinks there at any moment. So it gets a mount of
//! its own on which no symlink is followed (`MOUNT_ATTR_NOSYMFOLLOW` of mount_setattr(2), Linux 5.14). The
//! mount is attached nowhere and ends with its last descriptor.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;

/// Clones the mount of an open directory, read-only, without symlinks, devices and submounts.
///
/// # Errors
/// If the kernel is older than 5.14, or the caller may not mount.
pub fn clone_read_only(directory: impl AsFd) -> io::Result<File> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::O_CLOEXEC.cast_unsigned()
        | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: open_tree(2) reads a path that ends with NUL, and returns a descriptor that nobody else
    // owns.
    let view = unsafe {
        let number = libc::syscall(
            libc::SYS_open_tree,
            directory.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
        );
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(number as c_int)
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOSYMFOLLOW,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(&view, &attributes)?;
    Ok(view)
}

/// Maps root's files on a detached mount to the user and group `id` of the host. Files of other owners belong
/// to nobody.
///
/// # Errors
/// If the kernel is older than 5.12, or the filesystem does not support idmapped mounts.
pub fn map_root_to(view: impl AsFd, id: u32) -> io::Result<()> {
    // A user namespace exists as long as a process is in it, or a file of it is open.
    let mut holder = Command::new("unshare")
        .args(["--user", "--", "sh", "-c", "echo; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mapped = holder.stdout.take().map_or(Ok(()), |mut stdout| {
        stdout.read_exact(&mut [0])?;
        let process = Path::new("/proc").join(holder.id().to_string());
        let map = format!("0 {id} 1\n");
        fs::write(process.join("uid_map"), &map)?;
        fs::write(process.join("gid_map"), &map)?;
        let namespace = File::open(process.join("ns/user"))?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: namespace.as_raw_fd().cast_unsigned().into(),
        };
        set_attributes(view, &attributes)
    });
    drop(holder.stdin.take());
    holder.wait()?;
    mapped
}

/// Attaches the detached mount behind the descriptor `view` at `place`.
///
/// # Errors
/// If it is already attached, or the caller may not mount.
pub fn attach(view: RawFd, place: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{view}"))?;
    let to = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: move_mount(2) reads two paths that end with NUL.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            MOVE_MOUNT_F_SYMLINKS,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// From linux/mount.h.
const MOVE_MOUNT_F_SYMLINKS: u32 = 1;

fn set_attributes(view: impl AsFd, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: mount_setattr(2) reads a path that ends with NUL, and a structure of the given size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const *attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), "mine").unwrap();
        symlink("below/file", dir.path().join("link")).unwrap();
        symlink("/etc", dir.path().join("etc")).unwrap();
        let view = match clone_read_only(File::open(dir.path()).unwrap()) {
            Ok(view) => view,
            Err(error) => {
                eprintln!("SKIP links_lead_nowhere: mounting: {error}");
                return;
            }
        };
        let path = std::path::PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd()));
        assert_eq!(fs::read_to_string(path.join("below/file")).unwrap(), "mine");
        for link in ["link", "etc/passwd"] {
            let error = fs::read(path.join(link)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{link}");
        }
        assert!(fs::write(path.join("below/new"), "").is_err());
    }
}
