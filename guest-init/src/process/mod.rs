//! Processes: fork, exec, file descriptors, keys. `unsafe` for fork(2), which is sound in a program with a single thread, and for system
//! calls that `nix` does not have.
#![allow(unsafe_code)]

pub mod account;
pub mod confine;
pub mod label;
pub mod payload;

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

/// Runs `child` in a new process and returns the pid. The exit status is what `child` returns.
pub fn spawn(child: impl FnOnce() -> u8) -> Result<Pid> {
    // SAFETY: guest-init never starts a thread before it forks, so the child may call anything.
    match unsafe { unistd::fork() }.context("forking")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => std::process::exit(child().into()),
    }
}

/// Forks. Returns the pid of the child, and `None` in the child.
pub fn fork() -> Result<Option<Pid>> {
    // SAFETY: as in `spawn`.
    match unsafe { unistd::fork() }.context("forking")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Restores the default action of a signal (signal(7)).
pub fn default_action(which: Signal) -> nix::Result<()> {
    // SAFETY: no handler is installed that could run at a bad moment.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}

/// Sends a signal by its number: `nix` has no real-time signals (signal(7)).
pub fn send_signal(process: Pid, number: i32) -> nix::Result<()> {
    // SAFETY: kill(2) takes numbers only.
    let sent = unsafe { nix::libc::kill(process.as_raw(), number) };
    nix::errno::Errno::result(sent).map(drop)
}

/// Closes all files but the standard streams: an open directory of the caller leads out of the sandbox.
pub fn close_other_files() -> Result<()> {
    // SAFETY: the caller is about to become another program and uses none of these files again.
    let closed = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    nix::errno::Errno::result(closed).context("closing files")?;
    Ok(())
}

/// Takes over the inherited file `number` and sets close-on-exec; `None` if there is none. To be called once for each number.
pub fn inherited_file(number: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl(2) with F_SETFD takes numbers only.
    if unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, nix::libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the file is open, and no other code owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `fd` the controlling terminal of this process, which has to lead a session without one.
pub fn take_terminal(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the argument is a number.
    unsafe { tiocsctty(fd.as_raw_fd(), 0) }.context("taking the controlling terminal")?;
    Ok(())
}

/// Makes the kernel send the signals of a file (`O_ASYNC`, open(2)) to `process`.
pub fn own_signals(file: &impl AsRawFd, process: Pid) -> Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed, and the argument is a number.
    let owned =
        unsafe { nix::libc::fcntl(file.as_raw_fd(), nix::libc::F_SETOWN, process.as_raw()) };
    nix::errno::Errno::result(owned).context("asking for signals")?;
    Ok(())
}

/// Replaces the session keyring, inherited from the caller, by an empty one (`session-keyring(7)`). Keyrings are in no namespace, and
/// whoever has one may read its keys.
pub fn leave_keys() -> Result<()> {
    let (join, unnamed) = (nix::libc::KEYCTL_JOIN_SESSION_KEYRING, 0_usize);
    // SAFETY: without a name nothing is read.
    let joined = unsafe { nix::libc::syscall(nix::libc::SYS_keyctl, join, unnamed) };
    match nix::errno::Errno::result(joined) {
        // The kernel has no keys, or a filter refuses the call: then no key can be read.
        Ok(_) | Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(error).context("leaving the caller's keys"),
    }
}

/// Makes the kernel kill this process when its parent ends: libvirt does not know a container whose controller process is gone.
///
/// The setting survives execve(2), but not a change of the user (`PR_SET_PDEATHSIG(2const)`).
pub fn end_with_parent() {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        log::warn!("asking to end with the process above: {error}");
    }
}

/// Executes `command` in this process. The program is looked up in the `PATH` of `environment` unless it is a path. Returns only on
/// failure.
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
    // Blocked and ignored signals survive execve(2), and Rust's runtime ignores SIGPIPE.
    let _ = default_action(Signal::SIGPIPE);
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    if program.as_bytes().contains(&b'/') {
        return execve(program, &argv, &envp).map_err(failed);
    }
    // execvpe(3) searches the PATH of this process, not that of the payload.
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

/// Failure of execve(2).
#[derive(Debug, thiserror::Error)]
#[error("running '{program}'")]
pub struct ExecError {
    /// Program as it was given.
    pub program: String,
    /// Error of execve(2).
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
