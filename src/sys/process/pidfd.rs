//! Processes held by `pidfd_open(2)`, which cannot be confused with a later process of the same number.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// Handle on a process.
#[derive(Debug)]
pub struct Process {
    file: OwnedFd,
}

impl Process {
    /// Opens the process that has the number `pid` now.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: the call takes two numbers.
        let file = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
        let file = i32::try_from(Errno::result(file)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just opened the descriptor for this process.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        Ok(Self { file })
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// If the process has ended, or the caller may not signal it.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let none = std::ptr::null::<nix::libc::siginfo_t>();
        // SAFETY: the descriptor is open, and null stands for the signal information of kill(2).
        let sent = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_pidfd_send_signal,
                self.file.as_raw_fd(),
                signal as i32,
                none,
                0,
            )
        };
        Errno::result(sent)?;
        Ok(())
    }

    /// Waits for the end of the process; returns `false` after `patience`.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        poll(&mut polled, patience).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_signalled_and_waited_for() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.wait(Duration::ZERO));
        process.signal(Signal::SIGKILL).unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(process.signal(Signal::SIGKILL).is_err());
    }
}
