//! One side of the channel, and the streams that are carried over it.
//!
//! Host and guest use the same parts: a [`Link`] for the frames, a [`Source`] for each stream that is read here and
//! written over there, a [`Sink`] for each one that comes from there. Nothing waits: what may be read or written is
//! found out by the caller, with poll(2), from what each part [wants](Source::wants).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{read, write};

use crate::channel::wire::{CHUNK, Frame, Hello, StreamId, WINDOW, WireError};

/// Bytes that may wait for the channel before sources are left alone.
const BACKLOG: usize = 64 << 10;

/// What a terminal reads as the end of its input (`VEOF`, termios(3)).
const END_OF_INPUT: u8 = 4;

/// The frames on a channel.
#[derive(Debug)]
pub struct Link {
    /// Nonblocking.
    channel: OwnedFd,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl Link {
    /// Takes over a channel, which must not block.
    #[must_use]
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel,
            inbox: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// What to wait for.
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

    /// Takes the answer to [`Frame::Attach`], and forgets what came before; `None` while it is not there.
    pub fn hello(&mut self, number: u64) -> Option<Hello> {
        Frame::take_hello(&mut self.inbox, number)
    }

    /// Forgets what is queued: it was for somebody who is gone.
    pub fn forget(&mut self) {
        self.outbox.clear();
    }

    /// Whether all that was queued is written.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether sources may add to what waits.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() < BACKLOG
    }

    /// Writes what the channel takes.
    ///
    /// # Errors
    /// Where the other side is gone.
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

    /// Reads what is there; `false` once the other side has closed the channel.
    ///
    /// # Errors
    /// Where the channel fails.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        let mut most = buffer.len();
        // A virtio port gives no more than a page at a time.
        while most > 0 {
            match read(&self.channel, &mut buffer[..most]) {
                // A virtio port says EPIPE, a socket ECONNRESET, when nobody is there any more.
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
        Ok(true)
    }

    /// The next frame that was read whole.
    ///
    /// # Errors
    /// Where the other side sends what is none.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        Frame::take(&mut self.inbox)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// A stream that is read here.
#[derive(Debug)]
pub struct Source {
    channel: StreamId,
    /// Gone once it has ended.
    stream: Option<OwnedFd>,
    /// Bytes the other side has room for.
    room: u32,
}

impl Source {
    /// Carries `stream` over as `channel`.
    #[must_use]
    pub fn new(channel: StreamId, stream: OwnedFd) -> Self {
        Self {
            channel,
            stream: Some(stream),
            room: WINDOW,
        }
    }

    /// The stream, if there is something to wait for.
    #[must_use]
    pub fn wants(&self, link: &Link) -> Option<BorrowedFd<'_>> {
        let reads = self.room > 0 && link.has_room();
        self.stream.as_ref().filter(|_| reads).map(AsFd::as_fd)
    }

    /// Whether more may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// The other side can take so many more bytes.
    pub fn more_room(&mut self, count: u32) {
        self.room = self.room.saturating_add(count);
    }

    /// The other side wants no more: whoever writes to the stream is told, as by a reader that is gone.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// Reads once, and says when the stream has ended.
    ///
    /// # Errors
    /// Where the stream fails.
    pub fn pump(&mut self, link: &mut Link) -> io::Result<()> {
        self.pump_unless(link, None).map(drop)
    }

    /// As [`pump`](Self::pump), but `false`, and nothing carried over, where the first byte is `escape`.
    ///
    /// # Errors
    /// Where the stream fails.
    pub fn pump_unless(&mut self, link: &mut Link, escape: Option<u8>) -> io::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(true);
        };
        let mut buffer = [0; CHUNK];
        let most = CHUNK.min(self.room as usize);
        match read(stream, &mut buffer[..most]) {
            // EIO is what a terminal says that no process has open, or that was hung up.
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

/// What becomes of a stream when no more bytes come for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// It is closed.
    Close,
    /// The key for the end of input is typed: it is a terminal.
    Type,
}

/// A stream that is written here.
#[derive(Debug)]
pub struct Sink {
    channel: StreamId,
    /// Gone once it is closed.
    stream: Option<OwnedFd>,
    pending: Vec<u8>,
    /// Bytes written at once: all there are, or what a blocking pipe takes without waiting (`PIPE_BUF`, pipe(7)).
    at_once: usize,
    at_end: AtEnd,
    ended: bool,
    mid_line: bool,
    /// Bytes written since the other side was told of room.
    written: u32,
}

/// Bytes that a pipe which poll(2) calls writable takes without blocking (`PIPE_BUF`).
pub const PAGE: usize = 4096;

impl Sink {
    /// Writes what comes on `channel` to `stream`, at most `at_once` bytes at a time.
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

    /// Bytes that came. What is more than the other side was told there is room for is not kept: it could take all memory.
    ///
    /// # Errors
    /// Where there is more of it.
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

    /// No more come.
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
                // In the middle of a line the first one only hands over what there is (termios(3)).
                let times = if mid_line { 2 } else { 1 };
                self.pending
                    .extend(std::iter::repeat_n(END_OF_INPUT, times));
            }
        }
    }

    /// The stream, if there is something to write.
    #[must_use]
    pub fn wants(&self) -> Option<BorrowedFd<'_>> {
        let writes = !self.pending.is_empty();
        self.stream.as_ref().filter(|_| writes).map(AsFd::as_fd)
    }

    /// Whether all that came is written, or nobody wants it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.stream.is_none() || self.pending.is_empty()
    }

    /// Writes once, and tells the other side of the room there is, or that nobody reads any more.
    ///
    /// # Errors
    /// Where the stream fails for another reason than that.
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
                // EIO is what a terminal says that was hung up.
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
    use super::*;

    #[test]
    fn a_stream_that_nobody_reads_is_kept_up_to_the_window() {
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
