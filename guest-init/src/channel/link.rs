//! One side of the channel, and the streams on it.
//!
//! Host and guest use the same parts: a [`Link`] for frames, a [`Source`] for each stream that is read here, and a [`Sink`] for each
//! stream that is written here. No part blocks: the caller polls the files that each part [wants](Source::wants).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{read, write};

use crate::channel::wire::{CHUNK, Frame, Hello, StreamId, WINDOW, WireError};

/// Most bytes queued for the channel; with more, no source is read.
const BACKLOG: usize = 64 << 10;

/// Character that a terminal reads as the end of input (`VEOF`, termios(3)).
const END_OF_INPUT: u8 = 4;

/// Frames on a channel, to and from the other side.
#[derive(Debug)]
pub struct Link {
    /// Nonblocking.
    channel: OwnedFd,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// The last bytes read announce a new agent, possibly in the middle of a frame.
    has_begun: bool,
}

impl Link {
    /// Wraps a nonblocking file.
    #[must_use]
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel,
            inbox: Vec::new(),
            outbox: Vec::new(),
            has_begun: false,
        }
    }

    /// Returns the events to wait for.
    #[must_use]
    pub fn wants(&self) -> PollFlags {
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        events
    }

    /// Queues a frame.
    pub fn send(&mut self, frame: &Frame) {
        frame.write(&mut self.outbox);
    }

    /// Takes the answer to [`Frame::Attach`] and discards everything before it; `None` if it has not arrived.
    pub fn hello(&mut self, number: u64) -> Option<Hello> {
        Frame::take_hello(&mut self.inbox, number)
    }

    /// Discards queued frames, which were for a client that is gone.
    pub fn forget(&mut self) {
        self.outbox.clear();
    }

    /// Returns whether all queued frames are written.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Returns whether sources may queue more data.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() < BACKLOG
    }

    /// Writes queued frames until the channel is full.
    ///
    /// # Errors
    /// If the other side is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match write(&self.channel, &self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads available data. Returns `false` once the other side has closed the channel.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        let mut most = buffer.len();
        // A read of a virtio port returns at most a page.
        while most > 0 {
            match read(&self.channel, &mut buffer[..most]) {
                // The other side is gone: EPIPE from a virtio port, ECONNRESET from a socket.
                Ok(0) | Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(false),
                Ok(count) => {
                    self.inbox
                        .extend_from_slice(buffer.get(..count).unwrap_or_default());
                    most -= count;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut begin = Vec::new();
        Frame::Hello(Hello::BEGIN).write(&mut begin);
        self.has_begun = self.inbox.ends_with(&begin);
        Ok(true)
    }

    /// Tells earlier clients of this channel that they get no answer. Nothing follows until a client attaches.
    pub fn begin(&mut self) {
        // The missing part of a frame that was cut off may swallow the first one. No tail of it is a valid frame.
        self.send(&Frame::Hello(Hello::BEGIN));
        self.send(&Frame::Hello(Hello::BEGIN));
    }

    /// Returns the next complete frame.
    ///
    /// # Errors
    /// If the other side sends bytes that are no frame, or has [begun](Self::begin) anew.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        match Frame::take(&mut self.inbox)? {
            Some(Frame::Hello(Hello::BEGIN)) => Err(WireError::Begun),
            None if self.has_begun => Err(WireError::Begun),
            frame => Ok(frame),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// A stream that is read here and sent over the channel.
#[derive(Debug)]
pub struct Source {
    channel: StreamId,
    /// Absent once it has ended.
    stream: Option<OwnedFd>,
    /// Bytes that may be sent before the other side reports room.
    room: u32,
}

impl Source {
    /// Sends `stream` as the stream `channel` of the command.
    #[must_use]
    pub fn new(channel: StreamId, stream: OwnedFd) -> Self {
        Self {
            channel,
            stream: Some(stream),
            room: WINDOW,
        }
    }

    /// Returns the file to poll for input; `None` while it must not be read.
    #[must_use]
    pub fn wants(&self, link: &Link) -> Option<BorrowedFd<'_>> {
        let reads = self.room > 0 && link.has_room();
        self.stream.as_ref().filter(|_| reads).map(AsFd::as_fd)
    }

    /// Returns whether the stream has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Adds room that the other side has reported.
    pub fn more_room(&mut self, count: u32) {
        self.room = self.room.saturating_add(count);
    }

    /// Closes the stream: its writer gets `SIGPIPE` or `EPIPE`.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Reads once and queues the data, or the end of the stream.
    pub fn pump(&mut self, link: &mut Link) -> io::Result<()> {
        self.pump_unless(link, None).map(drop)
    }

    /// Reads once as [`pump`](Self::pump) does. If the first byte is `escape`, discards the data and returns `false`.
    pub fn pump_unless(&mut self, link: &mut Link, escape: Option<u8>) -> io::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(true);
        };
        let mut buffer = [0; CHUNK];
        let most = CHUNK.min(self.room as usize);
        match read(stream, &mut buffer[..most]) {
            // A terminal returns EIO if no process has it open, or after a hang-up.
            Ok(0) | Err(Errno::EIO) => {
                self.stream = None;
                link.send(&Frame::End(self.channel));
            }
            Ok(_) if escape == Some(buffer[0]) => return Ok(false),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                link.send(&Frame::Data(self.channel, bytes.to_vec()));
                self.room = self
                    .room
                    .saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                self.stream = None;
                link.send(&Frame::End(self.channel));
                return Err(error.into());
            }
        }
        Ok(true)
    }
}

/// Action when no more bytes come for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Close the stream.
    Close,
    /// Type the end-of-input character: the stream is a terminal.
    Type,
}

/// A stream that comes over the channel and is written here.
#[derive(Debug)]
pub struct Sink {
    channel: StreamId,
    /// Absent once it is closed.
    stream: Option<OwnedFd>,
    pending: Vec<u8>,
    /// Most bytes of one write: a blocking pipe takes `PIPE_BUF` without waiting (pipe(7)).
    at_once: usize,
    at_end: AtEnd,
    ended: bool,
    mid_line: bool,
    /// Bytes written since room was last reported.
    written: u32,
}

/// Bytes that a pipe takes without blocking once poll(2) reports it writable (`PIPE_BUF`).
pub const PAGE: usize = 4096;

impl Sink {
    /// Writes the stream `channel` of the command to `stream`, at most `at_once` bytes at a time.
    #[must_use]
    pub fn new(channel: StreamId, stream: OwnedFd, at_once: usize, at_end: AtEnd) -> Self {
        Self {
            channel,
            stream: Some(stream),
            pending: Vec::new(),
            at_once,
            at_end,
            ended: false,
            mid_line: false,
            written: 0,
        }
    }

    /// Queues received bytes.
    ///
    /// # Errors
    /// If there are more than the reported room, which could take all memory.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let waiting = self.pending.len() + bytes.len();
        if waiting > WINDOW as usize {
            return Err(WireError::Room(waiting));
        }
        if self.stream.is_some() {
            self.pending.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Ends the stream after the queued bytes.
    pub fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        match self.at_end {
            AtEnd::Close if self.pending.is_empty() => self.stream = None,
            AtEnd::Close => {}
            AtEnd::Type => {
                let last = self.pending.last();
                let mid_line = last.map_or(self.mid_line, |byte| *byte != b'\n');
                // In the middle of a line the first character only passes on the line so far (termios(3)).
                let times = if mid_line { 2 } else { 1 };
                self.pending
                    .extend(std::iter::repeat_n(END_OF_INPUT, times));
            }
        }
    }

    /// Returns the file to poll for output; `None` while nothing is queued.
    #[must_use]
    pub fn wants(&self) -> Option<BorrowedFd<'_>> {
        let writes = !self.pending.is_empty();
        self.stream.as_ref().filter(|_| writes).map(AsFd::as_fd)
    }

    /// Returns whether all queued bytes are written, or the stream is closed.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.stream.is_none() || self.pending.is_empty()
    }

    /// Writes once and reports room, or that the reader of the stream is gone.
    ///
    /// # Errors
    /// If the write fails for another reason than that.
    pub fn drain(&mut self, link: &mut Link) -> io::Result<()> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        let most = self.pending.len().min(self.at_once);
        match write(stream, &self.pending[..most]) {
            Ok(count) => {
                self.mid_line = count > 0 && self.pending[count - 1] != b'\n';
                self.pending.drain(..count);
                self.written += u32::try_from(count).unwrap_or(u32::MAX);
                if self.written >= WINDOW / 4 {
                    link.send(&Frame::Room(self.channel, self.written));
                    self.written = 0;
                }
                if self.ended && self.pending.is_empty() && self.at_end == AtEnd::Close {
                    self.stream = None;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                self.stream = None;
                self.pending.clear();
                link.send(&Frame::End(self.channel));
                // A terminal returns EIO after a hang-up.
                if !matches!(error, Errno::EPIPE | Errno::EIO | Errno::ECONNRESET) {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;

    use super::*;

    #[test]
    fn an_agent_that_begins_anew_is_heard_in_the_middle_of_any_frame() {
        let mut data = Vec::new();
        Frame::Data(StreamId::Stdout, vec![b'x'; 200]).write(&mut data);
        for kept in 0..=data.len() {
            let (ours, theirs) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
            let mut agent = Link::new(theirs);
            let mut client = Link::new(ours);
            agent.outbox.extend_from_slice(&data[..kept]);
            agent.begin();
            agent.flush().unwrap();
            client.fill().unwrap();
            let mut frames = std::iter::repeat_with(|| client.next_frame());
            assert!(
                frames
                    .find(|frame| !matches!(frame, Ok(Some(_))))
                    .unwrap()
                    .is_err(),
                "{kept}"
            );
        }
    }

    #[test]
    fn a_sink_queues_no_more_than_the_window() {
        let (_reader, stream) = nix::unistd::pipe().unwrap();
        let mut sink = Sink::new(StreamId::Stdout, stream, PAGE, AtEnd::Close);
        let chunk = vec![0; CHUNK];
        for _ in 0..WINDOW as usize / CHUNK {
            sink.accept(&chunk).unwrap();
        }
        let error = sink.accept(&[0]).unwrap_err();
        assert_eq!(error, WireError::Room(WINDOW as usize + 1));
    }
}
