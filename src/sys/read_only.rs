//! A mount namespace in which a process can write to no filesystem.
//!
//! `unsafe` for mount_setattr(2), for which `nix` has no function.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread into a mount namespace of its own where every mount is read-only and opens no device. Mounts that the
/// host makes later do not appear there: they would be writable.
///
/// The kernel changes all mounts or none, and lives with the last process in the namespace: nothing has to be unmounted.
///
/// # Errors
/// Where the caller may not mount, or the kernel is older than 5.12.
pub fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    set_attributes(libc::AT_FDCWD, c"/", libc::AT_RECURSIVE, &attributes)?;
    Ok(())
}

/// Returns whether the kernel has mount_setattr(2).
#[must_use]
pub fn is_supported() -> bool {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // No descriptor has this number, so that nothing is changed.
    set_attributes(-1, c"", libc::AT_EMPTY_PATH, &attributes) != Err(Errno::ENOSYS)
}

fn set_attributes(
    at: RawFd,
    path: &CStr,
    flags: libc::c_int,
    attributes: &libc::mount_attr,
) -> nix::Result<()> {
    // SAFETY: mount_setattr(2) reads a path that ends with a zero, and a structure of the size that it is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A thread has mounts of its own as a process has, so the other tests see nothing of this one.
    #[test]
    fn nothing_can_be_written_in_a_read_only_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "the host's").unwrap();
        let tried = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                enter()?;
                let attempts = [
                    fs::write(&file, "changed"),
                    fs::write(dir.path().join("new"), ""),
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)),
                    fs::remove_file(&file),
                    fs::rename(&file, dir.path().join("renamed")),
                    fs::create_dir("/dev/shm/virt-sandbox-read-only"),
                    fs::write("/proc/self/comm", "x"),
                    fs::write("/dev/null", ""),
                ];
                assert_eq!(fs::read_to_string(&file)?, "the host's");
                io::Result::Ok(attempts.map(|done| done.map_err(|error| error.raw_os_error())))
            });
            there.join().unwrap()
        });
        let tried = match tried {
            Ok(tried) => tried,
            Err(error) => {
                eprintln!("SKIP nothing_can_be_written_in_a_read_only_namespace: {error}");
                return;
            }
        };
        let [files @ .., device] = tried;
        assert!(
            files.iter().all(|done| *done == Err(Some(libc::EROFS))),
            "{files:?}"
        );
        assert_eq!(device, Err(Some(libc::EACCES)));
        fs::write(&file, "the host's own").unwrap();
    }

    #[test]
    fn support_is_told_without_a_change() {
        assert!(is_supported());
    }
}
