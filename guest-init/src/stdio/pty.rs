//! Terminals of the sandbox. They are in its own devpts, so `tty` and `ps` find their names.

use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::process::take_terminal;

/// Pseudoterminal of the sandbox (pty(7)).
#[derive(Debug)]
pub struct Pty {
    /// End of the user; nonblocking.
    pub master: OwnedFd,
    /// End of the command.
    pub slave: OwnedFd,
}

impl Pty {
    /// Opens a new pseudoterminal.
    pub fn open() -> Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // A write to a command that does not read must not keep us from reading its output.
        let master =
            posix_openpt(flags | OFlag::O_NONBLOCK).context("opening a terminal in the sandbox")?;
        grantpt(&master).context("opening a terminal in the sandbox")?;
        unlockpt(&master).context("opening a terminal in the sandbox")?;
        let name = ptsname_r(&master).context("naming the terminal")?;
        let slave = nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty())
            .with_context(|| format!("opening '{name}'"))?;
        Ok(Self {
            master: master.into(),
            slave,
        })
    }

    /// Starts a session with the command's end as its controlling terminal and the standard streams of this process.
    pub fn attach(slave: BorrowedFd<'_>) -> Result<()> {
        setsid().context("starting a session")?;
        take_terminal(slave)?;
        dup2_stdin(slave)?;
        dup2_stdout(slave)?;
        dup2_stderr(slave)?;
        Ok(())
    }
}
