//! Forking and waiting. The one place with `unsafe`: this program has a single thread, for which
//! fork(2) is sound.
#![allow(unsafe_code)]

pub mod account;
pub mod confine;
pub mod label;

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{self, ForkResult, Pid, execve};

nix::ioctl_write_int_bad!(
    /// Makes a terminal the controlling one of the session (`TIOCSCTTY(2const)`).
    tiocsctty,
    nix::libc::TIOCSCTTY
);

/// Runs `child` in a new process, whose exit status is what it returns, and gives the pid.
pub fn spawn(child: impl FnOnce() -> u8) -> Result<Pid> {
    // SAFETY: guest-init never starts a thread before it forks, so the child may call anything.
    match unsafe { unistd::fork() }.context("forking")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => std::process::exit(child().into()),
    }
}

/// Goes on in two processes: gives the pid of the new one here, and nothing there.
pub fn fork() -> Result<Option<Pid>> {
    // SAFETY: as in `spawn`.
    match unsafe { unistd::fork() }.context("forking")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Lets a signal do what it does by itself (signal(7)).
pub fn default_action(which: Signal) -> nix::Result<()> {
    // SAFETY: no handler is installed that could run at a bad moment.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}

/// Closes all files but the standard streams: a directory of the caller's would be a way out of the
/// sandbox. What follows cannot use any of them.
pub fn close_other_files() -> Result<()> {
    // SAFETY: the caller is about to become another program and uses none of these files again.
    let closed = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    nix::errno::Errno::result(closed).context("closing files")?;
    Ok(())
}

/// Takes over the file that was handed down as `number`, and keeps it from programs; `None` if there is none.
///
/// To be called once for each number.
pub fn handed_down(number: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl(2) with F_SETFD takes numbers only.
    if unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, nix::libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the file is open, and whoever handed it down leaves it to us.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes the terminal `fd` the controlling terminal. The caller leads a session without one.
pub fn take_terminal(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the argument is a number.
    unsafe { tiocsctty(fd.as_raw_fd(), 0) }.context("taking the controlling terminal")?;
    Ok(())
}

/// Has the signals about a file (`O_ASYNC`, open(2)) sent to `process`.
pub fn own_signals(file: &impl AsRawFd, process: Pid) -> Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the argument is a number.
    let owned =
        unsafe { nix::libc::fcntl(file.as_raw_fd(), nix::libc::F_SETOWN, process.as_raw()) };
    nix::errno::Errno::result(owned).context("asking for signals")?;
    Ok(())
}

/// Takes an empty session keyring in place of that of whoever started us (`session-keyring(7)`): who has it may read the keys in it,
/// and that is in no namespace.
pub fn leave_keys() -> Result<()> {
    let (join, unnamed) = (nix::libc::KEYCTL_JOIN_SESSION_KEYRING, 0_usize);
    // SAFETY: without a name nothing is read.
    let joined = unsafe { nix::libc::syscall(nix::libc::SYS_keyctl, join, unnamed) };
    match nix::errno::Errno::result(joined) {
        // Where there are no keys, or a filter that we are below refuses them, nobody reaches any from here.
        Ok(_) | Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(error).context("leaving the caller's keys"),
    }
}

/// Has this process killed when the one that started it ends: of a container whose keeper is gone libvirt knows no more.
///
/// It lasts over exec(2), but not over a change of who one is (prctl(2)).
pub fn end_with_parent() {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        log::warn!("asking to end with the process above: {error}");
    }
}

/// Replaces this process by `command`, which is looked up in the `PATH` of `environment` unless it is a
/// path. Returns only on failure.
pub fn exec<S: AsRef<OsStr>>(
    command: &[S],
    environment: &[(S, S)],
) -> Result<std::convert::Infallible, ExecError> {
    let failed = |source| ExecError {
        program: command
            .first()
            .map(|program| program.as_ref().to_string_lossy().into_owned())
            .unwrap_or_default(),
        source,
    };
    let (argv, envp) =
        c_strings(command, environment).map_err(|_| failed(nix::errno::Errno::EINVAL))?;
    let Some(program) = argv.first() else {
        return Err(failed(nix::errno::Errno::ENOENT));
    };
    // A payload starts with no signal blocked, and with SIGPIPE as it was before Rust's runtime set it
    // to be ignored: that outlives execve(2).
    let _ = default_action(Signal::SIGPIPE);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    if program.as_bytes().contains(&b'/') {
        return execve(program, &argv, &envp).map_err(failed);
    }
    // execvpe(3) would search our own PATH, not the payload's.
    let path = environment.iter().find(|(key, _)| key.as_ref() == "PATH");
    let path = path.map_or(&b""[..], |(_, dirs)| dirs.as_ref().as_bytes());
    let mut reason = nix::errno::Errno::ENOENT;
    for dir in path.split(|byte| *byte == b':') {
        let Ok(candidate) = CString::new([dir, b"/", program.as_bytes()].concat()) else {
            continue;
        };
        match execve(&candidate, &argv, &envp) {
            Ok(never) => match never {},
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {}
            Err(error) => reason = error,
        }
    }
    Err(failed(reason))
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
#[error("running '{program}'")]
pub struct ExecError {
    /// The program as it was asked for.
    pub program: String,
    /// What execve(2) said.
    pub source: nix::errno::Errno,
}

fn c_strings<S: AsRef<OsStr>>(
    command: &[S],
    environment: &[(S, S)],
) -> Result<(Vec<CString>, Vec<CString>)> {
    if command.is_empty() {
        bail!("no command");
    }
    let argv = command
        .iter()
        .map(|word| CString::new(word.as_ref().as_bytes()));
    let envp = environment.iter().map(|(key, value)| {
        CString::new([key.as_ref().as_bytes(), b"=", value.as_ref().as_bytes()].concat())
    });
    Ok((
        argv.collect::<Result<_, _>>()?,
        envp.collect::<Result<_, _>>()?,
    ))
}
