//! Signals that are forwarded to the command.

use std::os::fd::{AsFd, BorrowedFd};

use guest_init::stdio::signals::{FORWARDED, TERMINATING};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// Signals that are handled here, beside the forwarded ones: a new size of the terminal, and a stop typed there.
const HANDLED: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGTSTP];

/// Signals that are held back until they are taken. The old signal mask is restored on drop.
#[derive(Debug)]
pub struct Signals {
    file: SignalFd,
    before: SigSet,
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub signal: Signal,
    /// Sent by the kernel to a whole job: a key typed at the terminal, or its hang-up.
    pub typed: bool,
}

impl Signals {
    /// Holds signals back. No thread may have been started before, or it would take them.
    pub fn hold() -> Result<Self> {
        let failed = |errno| Error::step("listening for signals")(errno);
        let mut set = SigSet::empty();
        for signal in FORWARDED.into_iter().chain(HANDLED) {
            // A signal that the caller ignores, as with nohup(1), stays ignored.
            set.add(signal);
        }
        let before = SigSet::thread_get_mask().map_err(failed)?;
        set.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let file = SignalFd::with_flags(&set, flags).map_err(failed)?;
        Ok(Self { file, before })
    }

    /// Returns the signals that came since the last call.
    pub fn take(&self) -> Vec<Received> {
        let mut received = Vec::new();
        while let Ok(Some(info)) = self.file.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if let Ok(signal) = Signal::try_from(number) {
                received.push(Received {
                    signal,
                    typed: info.ssi_code == nix::libc::SI_KERNEL,
                });
            }
        }
        received
    }

    /// Returns the first signal that asks for the end.
    #[must_use]
    pub fn interrupted(&self) -> Option<Signal> {
        self.take()
            .into_iter()
            .map(|received| received.signal)
            .find(|signal| TERMINATING.contains(signal))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A user of the library goes on afterwards.
        let _ = self.before.thread_set_mask();
    }
}
