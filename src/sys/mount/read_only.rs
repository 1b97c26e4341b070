//! Mount namespace in which a process can write to no filesystem, or to a single file only.
//!
//! `unsafe` for mount_setattr(2), open_tree(2) and move_mount(2), for which `nix` has no functions.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Directory that holds the single file of [`enter_with`]: every host has it, and virtiofsd needs nothing in
/// it.
pub const ALONE: &str = "/tmp";

/// Access to a single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write, if its mount is writable.
    Write,
}

/// Moves the calling thread into a mount namespace of its own where every mount is read-only and opens no
/// device. Later mounts of the host do not propagate: they would be writable.
///
/// The kernel changes all mounts or none. The namespace ends with its last process: nothing has to be
/// unmounted.
///
/// # Errors
/// If the caller may not mount, or the kernel is older than 5.12.
pub fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(protect(
        libc::AT_FDCWD,
        c"/",
        libc::AT_RECURSIVE,
        libc::MOUNT_ATTR_RDONLY,
    )?)
}

/// Does the same as [`enter`], and replaces [`ALONE`] by a directory with nothing but `file`, under its name.
///
/// # Errors
/// See [`enter`]; also if `file` is a directory or missing.
pub fn enter_with(file: &Path, access: Access) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Cloned while detached, so that the changes below do not reach it: a mount that the host made
    // read-only stays so.
    let own = clone_mount(file)?;
    let flags = match access {
        Access::Read => libc::MOUNT_ATTR_RDONLY,
        Access::Write => 0,
    };
    protect(own.as_raw_fd(), c"", libc::AT_EMPTY_PATH, flags)?;
    protect(
        libc::AT_FDCWD,
        c"/",
        libc::AT_RECURSIVE,
        libc::MOUNT_ATTR_RDONLY,
    )?;
    let options = Some("mode=755,size=64k,nr_inodes=16");
    mount(
        Some("file"),
        ALONE,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )?;
    let place = Path::new(ALONE).join(name);
    File::create_new(&place)?;
    attach(&own, &place)?;
    let alone = CString::new(ALONE)?;
    Ok(protect(libc::AT_FDCWD, &alone, 0, libc::MOUNT_ATTR_RDONLY)?)
}

/// Forbids devices on a mount, stops propagation from the host, and sets `flags`.
fn protect(at: RawFd, path: &CStr, how: libc::c_int, flags: u64) -> nix::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: flags | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    set_attributes(at, path, how, &attributes)
}

/// Clones the mount of `file` without attaching it.
fn clone_mount(file: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(file.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: open_tree(2) reads a path that ends with NUL.
    let opened =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let opened = RawFd::try_from(Errno::result(opened)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created the descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn attach(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    let path = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: move_mount(2) reads two paths that end with NUL.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Ok(Errno::result(done).map(drop)?)
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
    // No descriptor has this number, so nothing is changed.
    set_attributes(-1, c"", libc::AT_EMPTY_PATH, &attributes) != Err(Errno::ENOSYS)
}

fn set_attributes(
    at: RawFd,
    path: &CStr,
    flags: libc::c_int,
    attributes: &libc::mount_attr,
) -> nix::Result<()> {
    // SAFETY: mount_setattr(2) reads a path that ends with NUL, and a structure of the given size.
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

    /// A thread can have its own mount namespace, so other tests are not affected.
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
    fn a_file_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [file, beside] = ["file", "beside"].map(|name| dir.path().join(name));
        for (access, after) in [(Access::Read, "the host's"), (Access::Write, "changed")] {
            fs::write(&file, "the host's").unwrap();
            fs::write(&beside, "the host's").unwrap();
            let there = Path::new(ALONE);
            let tried = std::thread::scope(|scope| {
                let tried = scope.spawn(|| {
                    enter_with(&file, access)?;
                    let names: Vec<_> = fs::read_dir(there)?
                        .map(|entry| entry.unwrap().file_name())
                        .collect();
                    assert_eq!(names, ["file"]);
                    let attempts = [
                        fs::write(there.join("new"), ""),
                        fs::rename(there.join("file"), there.join("other")),
                        fs::remove_file(there.join("file")),
                        fs::hard_link(there.join("file"), there.join("other")),
                        fs::write("/proc/self/comm", "x"),
                    ];
                    let codes: Vec<_> = attempts
                        .into_iter()
                        .filter_map(|done| done.err()?.raw_os_error())
                        .collect();
                    assert!(
                        codes
                            .iter()
                            .all(|code| [libc::EROFS, libc::EBUSY, libc::EXDEV].contains(code)),
                        "{codes:?}"
                    );
                    assert_eq!(codes.len(), 5);
                    let written = fs::write(there.join("file"), "changed");
                    assert_eq!(written.is_ok(), access == Access::Write, "{written:?}");
                    io::Result::Ok(())
                });
                tried.join().unwrap()
            });
            if let Err(error) = tried {
                eprintln!("SKIP a_file_is_alone: {error}");
                return;
            }
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
            assert_eq!(fs::read_to_string(&beside).unwrap(), "the host's");
        }
        let directory = dir.path().to_owned();
        let tried = std::thread::spawn(move || enter_with(&directory, Access::Read));
        assert!(tried.join().unwrap().is_err());
    }

    #[test]
    fn support_is_told_without_a_change() {
        assert!(is_supported());
    }
}
