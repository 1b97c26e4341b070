//! Terminals: the caller's raw mode, and the size of windows.
#![allow(unsafe_code)]

use std::io::stdin;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

/// Standard input in raw mode, for as long as this lives.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
    raw: Termios,
}

impl RawMode {
    /// Sets it; `None` if standard input is no terminal.
    ///
    /// # Errors
    /// Where the terminal refuses.
    pub fn enter() -> nix::Result<Option<Self>> {
        let Ok(before) = tcgetattr(stdin()) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let mode = Self { before, raw };
        mode.enter_again()?;
        Ok(Some(mode))
    }

    /// Sets it once more, where a shell may have set the terminal to its own mode.
    ///
    /// # Errors
    /// Where the terminal refuses.
    pub fn enter_again(&self) -> nix::Result<()> {
        tcsetattr(stdin(), SetArg::TCSADRAIN, &self.raw)
    }

    /// Sets it to what it was before.
    pub fn leave(&self) {
        // One that was hung up has no mode.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.leave();
    }
}

nix::ioctl_read_bad!(
    /// Reads the size of a terminal's window (`TIOCGWINSZ(2const)`).
    tiocgwinsz,
    nix::libc::TIOCGWINSZ,
    nix::libc::winsize
);
nix::ioctl_write_ptr_bad!(
    /// Sets the size of a terminal's window (`TIOCSWINSZ(2const)`).
    tiocswinsz,
    nix::libc::TIOCSWINSZ,
    nix::libc::winsize
);

/// Whether a file may be read by this job: it is no terminal, or one whose keys are for the group of this process at the moment.
#[must_use]
pub fn is_ours(file: BorrowedFd<'_>) -> bool {
    match tcgetpgrp(file) {
        Ok(foreground) => foreground == getpgrp(),
        Err(_) => true,
    }
}

/// The size of a terminal's window, in rows and columns.
///
/// # Errors
/// Where it is no terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> nix::Result<(u16, u16)> {
    let mut size = NONE;
    // SAFETY: the descriptor is open for as long as it is borrowed, and `size` outlives the call.
    unsafe { tiocgwinsz(terminal.as_raw_fd(), &raw mut size) }?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of a terminal's window, in rows and columns.
///
/// # Errors
/// Where it is no terminal.
pub fn set_window_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> nix::Result<()> {
    let size = nix::libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ..NONE
    };
    // SAFETY: as above.
    unsafe { tiocswinsz(terminal.as_raw_fd(), &raw const size) }?;
    Ok(())
}

const NONE: nix::libc::winsize = nix::libc::winsize {
    ws_row: 0,
    ws_col: 0,
    ws_xpixel: 0,
    ws_ypixel: 0,
};
