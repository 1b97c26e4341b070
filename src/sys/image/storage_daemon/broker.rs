//! Opens files on behalf of the confined storage daemon: the image, and the files that it names if the user
//! allows it.
//!
//! Each open(2) of the daemon arrives here (`seccomp_unotify(2)`). The image's path is answered with our
//! descriptor; any other call continues with the daemon's own rights and root. The path in its memory may
//! change while we read it: then the kernel opens with the daemon's rights what it reads itself, and we open
//! what we have read.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::sys::path::relative;

/// Files that the broker opens for the daemon.
pub struct BrokeredFiles {
    /// Path by which the daemon knows the image.
    pub path: PathBuf,
    /// The image.
    pub image: File,
    /// Root of the host, if the image may name files.
    pub host: Option<File>,
}

nix::ioctl_readwrite!(
    /// Receives a request.
    receive,
    b'!',
    0,
    libc::seccomp_notif
);
nix::ioctl_readwrite!(
    /// Answers a request.
    reply,
    b'!',
    1,
    libc::seccomp_notif_resp
);
nix::ioctl_write_ptr!(
    /// Installs a descriptor in the requesting process (Linux 5.9).
    add_descriptor,
    b'!',
    3,
    libc::seccomp_notif_addfd
);

/// Answer to a call of openat(2).
enum Answer {
    /// Lets the kernel make the call, with the daemon's own rights.
    Continue,
    /// Returns this descriptor of the daemon.
    Return(i64),
    /// Returns this error.
    Fail(Errno),
}

/// Answers the next request.
pub fn answer_next(listener: &OwnedFd, given: &BrokeredFiles) {
    // SAFETY: all zeros are a valid empty request, as the kernel requires.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the structure is the kernel's.
    if unsafe { receive(listener.as_raw_fd(), &raw mut question) }.is_err() {
        // The requesting thread has ended.
        return;
    }
    let (val, error, flags) = match decide(listener, &question, given) {
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Return(number) => (number, 0, 0),
        Answer::Fail(errno) => (0, -(errno as i32), 0),
    };
    let mut response = libc::seccomp_notif_resp {
        id: question.id,
        val,
        error,
        flags,
    };
    // SAFETY: as above. A thread that has ended needs no answer.
    let _ = unsafe { reply(listener.as_raw_fd(), &raw mut response) };
}

fn decide(listener: &OwnedFd, question: &libc::seccomp_notif, given: &BrokeredFiles) -> Answer {
    let path = match read_path(question.pid, question.data.args[1]) {
        Ok(path) => path,
        Err(errno) => return Answer::Fail(errno),
    };
    if path.as_os_str() == given.path.as_os_str() {
        return install(listener, question.id, &given.image);
    }
    let Some(host) = &given.host else {
        return Answer::Continue;
    };
    // This thread has the same root as the daemon: the path is a library, for example.
    if !path.is_absolute() || path.exists() {
        return Answer::Continue;
    }
    let flags = OFlag::from_bits_truncate(question.data.args[2] as i32);
    match open_on(host, &path, flags) {
        Ok(file) => install(listener, question.id, &file),
        Err(errno) => Answer::Fail(errno),
    }
}

fn install(listener: &OwnedFd, id: u64, file: &File) -> Answer {
    let descriptor = libc::seccomp_notif_addfd {
        id,
        flags: 0,
        srcfd: file.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
    };
    // SAFETY: the descriptor is open, and the structure is the kernel's.
    match unsafe { add_descriptor(listener.as_raw_fd(), &raw const descriptor) } {
        Ok(number) => Answer::Return(i64::from(number)),
        Err(errno) => Answer::Fail(errno),
    }
}

/// Opens a regular file of the host that an image names, with our rights.
fn open_on(host: &File, path: &Path, flags: OFlag) -> Result<File, Errno> {
    // Drops flags that create files; opening must not block.
    let kept = OFlag::O_ACCMODE | OFlag::O_DIRECT | OFlag::O_SYNC | OFlag::O_DSYNC;
    let how = OpenHow::new()
        .flags((flags & kept) | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(host, relative(path), how)?);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        _ => Err(Errno::EACCES),
    }
}

/// Reads the text at `address` of a process.
fn read_path(process: u32, address: u64) -> Result<PathBuf, Errno> {
    const PAGE: usize = 4096;
    let mut text = Vec::new();
    let mut at = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    while text.len() < libc::PATH_MAX as usize {
        // The next page may not be mapped.
        let mut piece = vec![0; PAGE - at % PAGE];
        let length = piece.len();
        let from = [RemoteIoVec {
            base: at,
            len: length,
        }];
        let process = Pid::from_raw(process.cast_signed());
        let count = process_vm_readv(process, &mut [IoSliceMut::new(&mut piece)], &from)?;
        let piece = piece.get(..count).unwrap_or_default();
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&piece[..end]);
            return Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&text)));
        }
        text.extend_from_slice(piece);
        at = at.checked_add(length).ok_or(Errno::EFAULT)?;
    }
    Err(Errno::ENAMETOOLONG)
}
