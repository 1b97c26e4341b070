//! Who may write to an image: the locks that QEMU puts on its images, so that the host and a virtual machine never write to one at a time.
//!
//! They are open file description locks (fcntl(2)) on single bytes of the file, one for what is done to it and one for what others must
//! not do. They go with the last that has the open file: a process, or a loop device over it. Both sides only ever take them shared,
//! and then look whether somebody could not have them exclusively (QEMU's `block/file-posix.c`).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Where the bytes begin that say what is done.
const DONE: libc::off_t = 100;

/// Where the bytes begin that say what others must not do.
const DENIED: libc::off_t = 200;

/// Numbers of QEMU's permissions to write and to resize.
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// Claims an open file, to read and write, for as long as its description is open.
///
/// # Errors
/// [`ErrorKind::ResourceBusy`](io::ErrorKind::ResourceBusy) where somebody else writes to it or lets nobody write; close it then.
pub fn claim(file: &File) -> io::Result<()> {
    for permission in [WRITE, RESIZE] {
        for base in [DONE, DENIED] {
            let lock = byte(base + permission, libc::F_RDLCK);
            fcntl(file, FcntlArg::F_OFD_SETLK(&lock))?;
        }
    }
    match is_others(file)? {
        true => Err(io::ErrorKind::ResourceBusy.into()),
        false => Ok(()),
    }
}

/// Whether somebody has claimed the file at `path`, or QEMU writes to it.
///
/// # Errors
/// Where it cannot be opened.
pub fn is_claimed(path: &Path) -> io::Result<bool> {
    is_others(&OpenOptions::new().read(true).write(true).open(path)?)
}

/// Whether another description of the same file has one of the locks.
fn is_others(file: &File) -> io::Result<bool> {
    for permission in [WRITE, RESIZE] {
        for base in [DONE, DENIED] {
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
        // Has to be (fcntl(2)).
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
        assert!(!is_claimed(file.path()).unwrap());
        let open = || OpenOptions::new().read(true).write(true).open(file.path());
        let first = open().unwrap();
        claim(&first).unwrap();
        assert!(is_claimed(file.path()).unwrap());
        let second = open().unwrap();
        let error = claim(&second).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        drop(second);
        drop(first);
        claim(&open().unwrap()).unwrap();
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
        claim(&claimed).unwrap();
        assert!(!writes().unwrap().success());
        drop(claimed);
        assert!(writes().unwrap().success());
    }
}
