//! One direction of a relayed stream. A flow never blocks: its caller polls the files.

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
/// Bytes that a file takes without blocking once poll(2) reports it writable (`PIPE_BUF`).
const PAGE: usize = 4096;
/// Bytes read at once.
pub const ROOM: usize = 256 << 10;
/// Most bytes that a terminal holds for its reader.
const OF_TERMINAL: usize = 64 << 10;

/// Action on the other side when no more bytes come for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Close the other side.
    Close,
    /// Type the end-of-input character: the other side is a terminal.
    Type,
}

/// Failure of a stream of the caller.
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
    /// Absent once it has ended.
    from: Option<OwnedFd>,
    /// Absent once it is closed.
    to: Option<OwnedFd>,
    buffer: Vec<u8>,
    written: usize,
    at_once: usize,
    at_end: AtEnd,
    /// Whether the last byte was not a newline.
    mid_line: bool,
    /// Bytes still to be read, once the command has ended.
    leftover: Option<usize>,
}

impl Flow {
    /// Returns a flow from the caller to the command, whose file is nonblocking.
    pub fn input(from: OwnedFd, to: OwnedFd, at_end: AtEnd) -> Self {
        Self::new("standard input", from, to, usize::MAX, at_end)
    }

    /// Returns a flow from the command to the caller.
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

    /// Limits the rest to what a pipe or terminal holds: the command has ended, and later data is of processes it left behind.
    pub fn end(&mut self) {
        let Some(from) = &self.from else { return };
        let held = fcntl(from, FcntlArg::F_GETPIPE_SZ).ok();
        let held = held.and_then(|size| usize::try_from(size).ok());
        self.leftover.get_or_insert(held.unwrap_or(OF_TERMINAL));
    }

    /// Stops reading.
    pub fn stop(&mut self) {
        self.from = None;
    }

    /// Returns whether the flow has ended and all data is written.
    pub fn is_over(&self) -> bool {
        self.to.is_none() || (self.from.is_none() && self.is_idle())
    }

    /// Returns whether all data read is written.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns whether the source may be read: it is not a terminal with another job in the foreground.
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
        // A terminal without an open end may still be opened, and poll(2) would report POLLHUP all the time.
        let watches = !self.is_idle() || self.at_end == AtEnd::Close;
        let to = self.to.as_ref().filter(|_| watches);
        let to = to.map(|to| (to.as_fd(), writing));
        from.into_iter().chain(to)
    }

    /// Handles the events that poll(2) has reported.
    pub fn advance(&mut self, ready: &[(i32, PollFlags)]) -> Result<(), Failure> {
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
            // A terminal returns EIO if no process has it open, or after a hang-up.
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
                // In the middle of a line the first character only passes on the line so far (termios(3)).
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
                // The reader is gone, which is no error.
                let is_gone = matches!(errno, Errno::EPIPE | Errno::ECONNRESET | Errno::EIO);
                match is_gone {
                    true => Ok(()),
                    false => Err(self.failure("writing", errno)),
                }
            }
        }
    }

    /// Closes both sides: the writer gets `SIGPIPE` or `EPIPE`.
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
    fn data_and_the_end_are_passed_on() {
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
            flow.advance(&wanted).unwrap();
            turns += 1;
            assert!(turns < 20);
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 10_000]);
    }

    #[test]
    fn a_closed_reader_closes_the_writer() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        drop(reader);
        let ready = all(&to, PollFlags::POLLERR);
        let mut flow = Flow::input(from.into(), to.into(), AtEnd::Close);
        flow.advance(&ready).unwrap();
        assert!(flow.is_over());
        assert!(write(&writer, b"x").is_err());
    }

    #[test]
    fn failures_name_the_stream() {
        let (reader, to) = pipe().unwrap();
        let directory = File::open("/").unwrap();
        let ready = all(&directory, PollFlags::POLLIN);
        let mut flow = Flow::input(directory.into(), to.into(), AtEnd::Close);
        let failure = flow.advance(&ready).unwrap_err();
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
        let failure = flow.advance(&ready).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "writing standard output: No space left on device"
        );
        drop(reader);
    }

    #[test]
    fn after_the_end_no_more_is_read_than_a_pipe_holds() {
        let (from, mut writer) = pipe().unwrap();
        let (_reader, to) = pipe().unwrap();
        let mut flow = Flow::output("standard output", from.into(), to.into());
        flow.end();
        let mut taken = 0;
        while !flow.is_over() {
            writer.write_all(&[0; PAGE]).unwrap();
            let ready = all(flow.from.as_ref().unwrap(), PollFlags::POLLIN);
            flow.advance(&ready).unwrap();
            taken += flow.buffer.len();
            flow.buffer.clear();
            assert!(taken <= 1 << 20);
        }
        assert_eq!(taken, 64 << 10);
    }
}
