//! Terminals: raw mode and window size.
#![allow(unsafe_code)]

use std::io::stdin;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

/// Raw mode of standard input, until this is dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
    raw: Termios,
}

impl RawMode {
    /// Sets raw mode; `None` if standard input is no terminal.
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

    /// Sets raw mode again, since a shell may have set its own mode meanwhile.
    pub fn enter_again(&self) -> nix::Result<()> {
        tcsetattr(stdin(), SetArg::TCSADRAIN, &self.raw)
    }

    /// Restores the previous mode.
    pub fn leave(&self) {
        // Fails for a terminal after a hang-up, which has no mode.
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

/// Returns whether this job may read a file: it is no terminal, or a terminal with this process group in the foreground.
#[must_use]
pub fn is_ours(file: BorrowedFd<'_>) -> bool {
    match tcgetpgrp(file) {
        Ok(foreground) => foreground == getpgrp(),
        Err(_) => true,
    }
}

/// Returns the size of a terminal's window, in rows and columns.
///
/// # Errors
/// If it is no terminal.
pub fn window_size(terminal: BorrowedFd<'_>) -> nix::Result<(u16, u16)> {
    let mut size = NONE;
    // SAFETY: the descriptor is open for as long as it is borrowed, and `size` outlives the call.
    unsafe { tiocgwinsz(terminal.as_raw_fd(), &raw mut size) }?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of a terminal's window, in rows and columns.
///
/// # Errors
/// If it is no terminal.
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
