//! Bytes on their way from one file to another.
//!
//! A flow never waits: its caller finds out which files can be read or written.

use std::fmt::{self, Display};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::PollFlags;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{read, write};

use crate::stdio::terminal::is_ours;

/// Character that a terminal reads as the end of its input (`VEOF`).
const END_OF_INPUT: u8 = 4;
/// Bytes that can be written without waiting to whatever poll(2) calls writable (`PIPE_BUF`).
const PAGE: usize = 4096;
/// Bytes read at once.
pub const ROOM: usize = 256 << 10;
/// More than a terminal holds for its reader.
const OF_TERMINAL: usize = 64 << 10;

/// Action on the other side when no more bytes come for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// The other side is closed.
    Close,
    /// The key for the end of input is typed: it is a terminal.
    Type,
}

/// Why a stream of the caller fails.
#[derive(Debug)]
pub struct Failure {
    doing: &'static str,
    name: &'static str,
    errno: Errno,
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, name, errno } = self;
        write!(formatter, "{doing} {name}: {}", errno.desc())
    }
}

/// One direction of a stream.
#[derive(Debug)]
pub struct Flow {
    /// Name of the stream in messages.
    name: &'static str,
    /// Gone once it has ended.
    from: Option<OwnedFd>,
    /// Gone once it is closed.
    to: Option<OwnedFd>,
    buffer: Vec<u8>,
    written: usize,
    at_once: usize,
    at_end: AtEnd,
    /// Whether the last line is still without its end.
    mid_line: bool,
    /// Bytes still taken from a command that has ended.
    leftover: Option<usize>,
}

impl Flow {
    /// From the caller to the command, who is at a file that does not block.
    pub fn input(from: OwnedFd, to: OwnedFd, at_end: AtEnd) -> Self {
        Self::new("standard input", from, to, usize::MAX, at_end)
    }

    /// From the command to the caller.
    pub fn output(name: &'static str, from: OwnedFd, to: OwnedFd) -> Self {
        let is_regular = fstat(&to).is_ok_and(|status| {
            SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
        });
        let at_once = if is_regular { usize::MAX } else { PAGE };
        Self::new(name, from, to, at_once, AtEnd::Close)
    }

    fn new(name: &'static str, from: OwnedFd, to: OwnedFd, at_once: usize, at_end: AtEnd) -> Self {
        Self {
            name,
            from: Some(from),
            to: Some(to),
            buffer: Vec::new(),
            written: 0,
            at_once,
            at_end,
            mid_line: false,
            leftover: None,
        }
    }

    /// The command has ended: all that it wrote is there. What comes after that is of processes it left behind.
    pub fn end(&mut self) {
        let Some(from) = &self.from else { return };
        let held = fcntl(from, FcntlArg::F_GETPIPE_SZ).ok();
        let held = held.and_then(|size| usize::try_from(size).ok());
        self.leftover.get_or_insert(held.unwrap_or(OF_TERMINAL));
    }

    /// Nothing more is to be taken.
    pub fn stop(&mut self) {
        self.from = None;
    }

    /// Whether nothing more comes, and all that came was passed on.
    pub fn is_over(&self) -> bool {
        self.to.is_none() || (self.from.is_none() && self.is_idle())
    }

    /// Whether nothing that came waits to be passed on.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether what it reads is no terminal that is another job's at the moment.
    pub fn reads_ours(&self) -> bool {
        self.from.as_ref().is_none_or(|from| is_ours(from.as_fd()))
    }

    /// Returns the files to poll, each with the events to wait for. The source is among them only with `may_read`, and while
    /// nothing is left to write. poll(2) reports a reader that is gone even if no event is asked for.
    pub fn wants(&self, may_read: bool) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let reads = may_read && self.is_idle() && self.to.is_some();
        let from = self.from.as_ref().filter(|_| reads);
        let writing = match self.is_idle() {
            true => PollFlags::empty(),
            false => PollFlags::POLLOUT,
        };
        let from = from.map(|from| (from.as_fd(), PollFlags::POLLIN));
        // A terminal that nobody has open may still be opened: that it is not would be told again and again.
        let watches = !self.is_idle() || self.at_end == AtEnd::Close;
        let to = self.to.as_ref().filter(|_| watches);
        let to = to.map(|to| (to.as_fd(), writing));
        from.into_iter().chain(to)
    }

    /// Does what can be done, as poll(2) has said of these files.
    pub fn turn(&mut self, ready: &[(i32, PollFlags)]) -> Result<(), Failure> {
        let events = |file: &Option<OwnedFd>| {
            let number = file.as_ref().map(AsRawFd::as_raw_fd);
            let found = ready.iter().find(|(fd, _)| Some(*fd) == number);
            found.map_or(PollFlags::empty(), |(_, events)| *events)
        };
        let (from, to) = (events(&self.from), events(&self.to));
        if !from.is_empty() && self.is_idle() {
            self.fill()?;
        }
        if to.contains(PollFlags::POLLOUT) {
            return self.drain();
        }
        if to.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            self.close();
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let Some(from) = &self.from else {
            return Ok(());
        };
        self.buffer.resize(ROOM, 0);
        let count = read(from, &mut self.buffer);
        self.buffer.truncate(*count.as_ref().unwrap_or(&0));
        match count {
            // EIO is what a terminal says that no process has open any more, or that was hung up.
            Ok(0) | Err(Errno::EIO) => self.end_of_input(),
            Ok(count) => {
                self.mid_line = self.buffer.last() != Some(&b'\n');
                if let Some(left) = &mut self.leftover {
                    *left = left.saturating_sub(count);
                    if *left == 0 {
                        self.from = None;
                    }
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                self.end_of_input();
                return Err(self.failure("reading", errno));
            }
        }
        Ok(())
    }

    fn end_of_input(&mut self) {
        self.from = None;
        match self.at_end {
            AtEnd::Close => self.to = None,
            AtEnd::Type => {
                // In the middle of a line the first one only hands over what there is (termios(3)).
                let times = if self.mid_line { 2 } else { 1 };
                self.buffer.extend(std::iter::repeat_n(END_OF_INPUT, times));
            }
        }
    }

    fn drain(&mut self) -> Result<(), Failure> {
        let Some(to) = &self.to else { return Ok(()) };
        let rest = self.buffer.get(self.written..).unwrap_or_default();
        let most = rest.len().min(self.at_once);
        match write(to, rest.get(..most).unwrap_or_default()) {
            Ok(count) => {
                self.written += count;
                if self.written >= self.buffer.len() {
                    self.buffer.clear();
                    self.written = 0;
                    if self.from.is_none() && self.at_end == AtEnd::Close {
                        self.to = None;
                    }
                }
                Ok(())
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(()),
            Err(errno) => {
                self.close();
                // Nobody reads it any more: no error.
                let is_gone = matches!(errno, Errno::EPIPE | Errno::ECONNRESET | Errno::EIO);
                match is_gone {
                    true => Ok(()),
                    false => Err(self.failure("writing", errno)),
                }
            }
        }
    }

    /// Nobody takes any more: whoever writes is told, as by a reader that is gone.
    fn close(&mut self) {
        self.from = None;
        self.to = None;
        self.buffer.clear();
    }

    fn failure(&self, doing: &'static str, errno: Errno) -> Failure {
        Failure {
            doing,
            name: self.name,
            errno,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write, pipe};

    use super::*;

    fn all(file: &impl AsRawFd, events: PollFlags) -> Vec<(i32, PollFlags)> {
        vec![(file.as_raw_fd(), events)]
    }

    #[test]
    fn bytes_come_through_and_the_end_is_passed_on() {
        let (from, mut writer) = pipe().unwrap();
        let (mut reader, to) = pipe().unwrap();
        let mut flow = Flow::output("standard output", from.into(), to.into());
        writer.write_all(&[7; 10_000]).unwrap();
        drop(writer);
        let mut turns = 0;
        while !flow.is_over() {
            let wanted: Vec<_> = (flow.wants(true))
                .map(|(fd, events)| (fd.as_raw_fd(), events))
                .collect();
            flow.turn(&wanted).unwrap();
            turns += 1;
            assert!(turns < 20);
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 10_000]);
    }

    #[test]
    fn a_reader_that_is_gone_is_told_on() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        drop(reader);
        let ready = all(&to, PollFlags::POLLERR);
        let mut flow = Flow::input(from.into(), to.into(), AtEnd::Close);
        flow.turn(&ready).unwrap();
        assert!(flow.is_over());
        assert!(write(&writer, b"x").is_err());
    }

    #[test]
    fn what_fails_is_named() {
        let (reader, to) = pipe().unwrap();
        let directory = File::open("/").unwrap();
        let ready = all(&directory, PollFlags::POLLIN);
        let mut flow = Flow::input(directory.into(), to.into(), AtEnd::Close);
        let failure = flow.turn(&ready).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "reading standard input: Is a directory"
        );
        assert!(flow.is_over());
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (from, mut writer) = pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let ready = [
            (from.as_raw_fd(), PollFlags::POLLIN),
            (full.as_raw_fd(), PollFlags::POLLOUT),
        ];
        let mut flow = Flow::output("standard output", from.into(), full.into());
        let failure = flow.turn(&ready).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "writing standard output: No space left on device"
        );
        drop(reader);
    }

    #[test]
    fn of_an_ended_command_no_more_is_taken_than_its_pipe_holds() {
        let (from, mut writer) = pipe().unwrap();
        let (_reader, to) = pipe().unwrap();
        let mut flow = Flow::output("standard output", from.into(), to.into());
        flow.end();
        let mut taken = 0;
        while !flow.is_over() {
            writer.write_all(&[0; PAGE]).unwrap();
            let ready = all(flow.from.as_ref().unwrap(), PollFlags::POLLIN);
            flow.turn(&ready).unwrap();
            taken += flow.buffer.len();
            flow.buffer.clear();
            assert!(taken <= 1 << 20);
        }
        assert_eq!(taken, 64 << 10);
    }
}
