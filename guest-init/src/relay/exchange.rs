//! Bytes on their way between the caller's streams and the command's terminal.
//!
//! It does not wait: what may be read or written is found out by its caller.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{read, write};

/// What a terminal reads as the end of its input (`VEOF`).
const END_OF_INPUT: u8 = 4;
/// Bytes read at once. A pipe that can be written to takes as many without blocking (`PIPE_BUF`).
const PAGE: usize = 4096;
/// More than a terminal holds for its reader. What comes after that from an ended command is of
/// processes it left behind.
const LEFTOVER: usize = 64 << 10;

/// A page of each direction at the most.
pub struct Exchange {
    /// What the command has said, but the caller has not got yet.
    pub to_caller: Vec<u8>,
    to_command: Vec<u8>,
    /// Whether more may come from the command.
    pub output_open: bool,
    input_open: bool,
    /// Whether the last line of the input is still without its end.
    mid_line: bool,
    /// Bytes still taken from a command that has ended.
    leftover: Option<usize>,
}

impl Exchange {
    /// One that is over at once if there is nothing to exchange.
    pub fn new(open: bool) -> Self {
        Self {
            to_caller: Vec::new(),
            to_command: Vec::new(),
            output_open: open,
            input_open: open,
            mid_line: false,
            leftover: None,
        }
    }

    /// The command has ended: it reads nothing any more, and what it wrote is all in its terminal.
    pub fn end(&mut self) {
        self.to_command.clear();
        // What is typed from now on is for the caller.
        self.input_open = false;
        self.leftover.get_or_insert(LEFTOVER);
    }

    /// Whether all that the command has said was passed on.
    pub fn is_over(&self) -> bool {
        !self.output_open && self.to_caller.is_empty()
    }

    /// What to wait for at the command's terminal.
    pub fn wanted_of_command(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        let open = self.output_open;
        events.set(PollFlags::POLLIN, open && self.to_caller.is_empty());
        events.set(PollFlags::POLLOUT, open && !self.to_command.is_empty());
        events
    }

    /// What to wait for at standard input.
    pub fn wanted_of_stdin(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        let reads = self.input_open && self.output_open && self.to_command.is_empty();
        events.set(PollFlags::POLLIN, reads);
        events
    }

    /// What to wait for at standard output.
    pub fn wanted_of_stdout(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLOUT, !self.to_caller.is_empty());
        events
    }

    /// Takes what the command says, if there is room for it.
    pub fn fill_to_caller(&mut self, master: BorrowedFd<'_>) -> Result<()> {
        if !self.to_caller.is_empty() {
            return Ok(());
        }
        let mut buffer = [0; PAGE];
        match read(master, &mut buffer) {
            // EIO is what a terminal says when no process has it open any more.
            Ok(0) | Err(Errno::EIO) => self.output_open = false,
            Ok(count) => {
                self.to_caller
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                if let Some(left) = &mut self.leftover {
                    *left = left.saturating_sub(count);
                    self.output_open = *left > 0;
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("reading the command's terminal"),
        }
        Ok(())
    }

    /// Takes input of the caller.
    pub fn fill_to_command(&mut self, stdin: BorrowedFd<'_>) -> Result<()> {
        let mut buffer = [0; PAGE];
        match read(stdin, &mut buffer) {
            // EIO is what a terminal says that was hung up.
            Ok(0) | Err(Errno::EIO) => {
                self.input_open = false;
                // In the middle of a line the first one only hands over what there is (termios(3)).
                let times = if self.mid_line { 2 } else { 1 };
                self.to_command
                    .extend(std::iter::repeat_n(END_OF_INPUT, times));
            }
            Ok(count) => {
                self.to_command
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                self.mid_line = self.to_command.last() != Some(&b'\n');
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("reading standard input"),
        }
        Ok(())
    }

    /// Gives the command as much of its input as it takes.
    pub fn drain_to_command(&mut self, master: BorrowedFd<'_>) -> Result<()> {
        if self.to_command.is_empty() {
            return Ok(());
        }
        match write(master, &self.to_command) {
            Ok(count) => {
                self.to_command.drain(..count);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Nobody is there any more to read it.
            Err(Errno::EIO) => self.to_command.clear(),
            Err(error) => return Err(error).context("writing to the command's terminal"),
        }
        Ok(())
    }

    /// Gives the caller what the command has said.
    pub fn drain_to_caller(&mut self, stdout: BorrowedFd<'_>) -> Result<()> {
        match write(stdout, &self.to_caller) {
            Ok(count) => {
                self.to_caller.drain(..count);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("writing to standard output"),
        }
        Ok(())
    }
}
