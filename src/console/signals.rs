//! Signals that are for the command.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// What is passed on, or minded here.
const MINDED: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Those that ask for an end.
pub(super) const ASKING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Signals that wait until they are asked for, from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    file: SignalFd,
    before: SigSet,
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// Whether the kernel sent it, to a whole job: a key typed at the terminal, or its hang-up.
    pub typed: bool,
}

impl Signals {
    /// Holds signals back. No thread must have been started before, or it would take them.
    ///
    /// # Errors
    /// Where the kernel has no more files for us.
    pub fn hold() -> Result<Self> {
        let failed = |errno| Error::step("listening for signals")(errno);
        let mut set = SigSet::empty();
        for signal in MINDED {
            // One that the caller has had ignored, as nohup(1) does, stays so.
            set.add(signal);
        }
        let before = SigSet::thread_get_mask().map_err(failed)?;
        set.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let file = SignalFd::with_flags(&set, flags).map_err(failed)?;
        Ok(Self { file, before })
    }

    /// Those that came since the last time.
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

    /// The first that came which asks for an end.
    #[must_use]
    pub fn interrupted(&self) -> Option<Signal> {
        self.take()
            .into_iter()
            .map(|received| received.signal)
            .find(|signal| ASKING.contains(signal))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // A library's user goes on.
        let _ = self.before.thread_set_mask();
    }
}
