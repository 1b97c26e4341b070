//! Locks of images, compatible with QEMU's, so that the host and a virtual machine never write to an image at
//! the same time.
//!
//! They are open file description locks (fcntl(2)) on single bytes of the file: one byte for each permission
//! that is used, and one for each that is denied to others. They last as long as the open file description,
//! held by a process or by a loop device. Both sides only take shared locks, and then test whether another
//! description prevents an exclusive one (QEMU's `block/file-posix.c`).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// First byte of the permissions in use (`RAW_LOCK_PERM_BASE`).
const USED: libc::off_t = 100;

/// First byte of the permissions denied to others (`RAW_LOCK_SHARED_BASE`).
const DENIED: libc::off_t = 200;

/// Numbers of QEMU's permissions to write and to resize.
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// Locks an open file for reading and writing, for as long as its description is open.
///
/// # Errors
/// [`ErrorKind::ResourceBusy`](io::ErrorKind::ResourceBusy) if another description writes or forbids writing;
/// close the file then.
pub fn acquire(file: &File) -> io::Result<()> {
    for permission in [WRITE, RESIZE] {
        for base in [USED, DENIED] {
            let lock = byte(base + permission, libc::F_RDLCK);
            fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
        }
    }
    match is_locked_by_other(file)? {
        true => Err(io::ErrorKind::ResourceBusy.into()),
        false => Ok(()),
    }
}

/// Returns whether the file at `path` is locked, by QEMU or by the host.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    is_locked_by_other(&OpenOptions::new().read(true).write(true).open(path)?)
}

/// Returns whether another description of the file has one of the locks.
fn is_locked_by_other(file: &File) -> io::Result<bool> {
    for permission in [WRITE, RESIZE] {
        for base in [USED, DENIED] {
            let mut lock = byte(base + permission, libc::F_WRLCK);
            fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
            if i32::from(lock.l_type) != libc::F_UNLCK {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn byte(at: libc::off_t, kind: libc::c_int) -> libc::flock {
    libc::flock {
        // Small numbers, of type short in the structure.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        // Must be 0 (fcntl(2)).
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_image_has_one_that_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert!(!is_locked(file.path()).unwrap());
        let open = || OpenOptions::new().read(true).write(true).open(file.path());
        let first = open().unwrap();
        acquire(&first).unwrap();
        assert!(is_locked(file.path()).unwrap());
        let second = open().unwrap();
        let error = acquire(&second).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        drop(second);
        drop(first);
        acquire(&open().unwrap()).unwrap();
    }

    #[test]
    fn qemu_knows_the_claim() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let writes = || {
            let mut program = Command::new("qemu-io");
            program
                .args(["-f", "raw", "-c", "write 0 512"])
                .arg(file.path());
            program.stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        match writes() {
            Ok(status) => assert!(status.success()),
            Err(error) => {
                eprintln!("skipped: qemu_knows_the_claim: qemu-io: {error}");
                return;
            }
        }
        let open = OpenOptions::new().read(true).write(true).open(file.path());
        let claimed = open.unwrap();
        acquire(&claimed).unwrap();
        assert!(!writes().unwrap().success());
        drop(claimed);
        assert!(writes().unwrap().success());
    }
}
