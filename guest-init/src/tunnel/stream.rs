//! End of a connection with a stream of bytes. Each direction ends by itself, and none runs ahead of its reader.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc::linger;
use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, recv, send, setsockopt, shutdown, sockopt};

use super::reply::{EndState, FLAGS, Reply};
use crate::channel::wire::{CHUNK, TunnelFrame, WINDOW};
use crate::tunnel::targets::{Targets, is_connected, start_connect};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: OwnedFd,
    /// Further targets; absent once the connection is established.
    targets: Option<Targets>,
    is_reset: Arc<AtomicBool>,
    /// Bytes that may be sent before the other side reports room.
    room: u32,
    /// Bytes received and not yet written; at most [`WINDOW`].
    pending: VecDeque<u8>,
    /// Bytes written since room was last reported.
    written: u32,
    /// Whether [`TunnelFrame::End`] was sent.
    sent_end: bool,
    /// Whether [`TunnelFrame::End`] was received.
    received_end: bool,
    /// Whether the received end was passed on to the socket.
    is_shut: bool,
}

impl Stream {
    pub(super) fn new(
        socket: OwnedFd,
        targets: Option<Targets>,
        is_reset: Arc<AtomicBool>,
    ) -> Self {
        Self {
            socket,
            targets,
            is_reset,
            room: WINDOW,
            pending: VecDeque::new(),
            written: 0,
            sent_end: false,
            received_end: false,
            is_shut: false,
        }
    }

    pub(super) fn connect(mut targets: Targets) -> Option<Self> {
        let socket = next_socket(&mut targets)?;
        Some(Self::new(socket, Some(targets), Arc::default()))
    }

    pub(super) fn reset(self) {
        self.is_reset.store(true, Ordering::Release);
        let at_once = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&self.socket, sockopt::Linger, &at_once);
    }

    pub(super) fn wants(&self, has_room: bool) -> PollFlags {
        if self.targets.is_some() {
            return PollFlags::POLLOUT;
        }
        let reads = has_room && self.room > 0 && !self.sent_end;
        let mut wants = PollFlags::empty();
        wants.set(PollFlags::POLLIN, reads);
        wants.set(PollFlags::POLLOUT, !self.pending.is_empty());
        wants
    }

    pub(super) fn advance(&mut self, events: PollFlags, has_room: bool) -> Reply {
        if self.targets.is_some() {
            return match is_connected(self.socket.as_fd()) {
                Ok(false) => Reply::OPEN,
                Ok(true) => {
                    self.targets = None;
                    self.drain()
                }
                Err(error) => self.try_next(&error),
            };
        }
        let wants = self.wants(has_room);
        let failed = PollFlags::POLLHUP | PollFlags::POLLERR;
        let may = |event| wants.contains(event) && events.intersects(event | failed);
        let mut reply = Reply::OPEN;
        if may(PollFlags::POLLOUT) {
            reply = self.drain();
        }
        if may(PollFlags::POLLIN) && reply.state == EndState::Open {
            let pumped = self.pump();
            reply.frames.extend(pumped.frames);
            reply.state = pumped.state;
        }
        reply
    }

    /// Tries the next target, since nobody listens at this one.
    fn try_next(&mut self, error: &std::io::Error) -> Reply {
        let connecting = self.targets.as_mut().and_then(|targets| {
            targets.failed(error);
            next_socket(targets)
        });
        match connecting {
            Some(socket) => {
                self.socket = socket;
                Reply::OPEN
            }
            None => Reply::RESET,
        }
    }

    fn pump(&mut self) -> Reply {
        let mut buffer = [0; CHUNK];
        let most = CHUNK.min(self.room as usize);
        match recv(self.socket.as_raw_fd(), &mut buffer[..most], FLAGS) {
            Ok(0) if self.is_reset.load(Ordering::Acquire) => Reply::RESET,
            Ok(0) => {
                self.sent_end = true;
                Reply::new(vec![TunnelFrame::End], self.state())
            }
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                self.room -= u32::try_from(count).unwrap_or(self.room);
                Reply::new(vec![TunnelFrame::Data(bytes)], EndState::Open)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Reply::OPEN,
            Err(_) => Reply::RESET,
        }
    }

    pub(super) fn accept(&mut self, bytes: Vec<u8>) -> Reply {
        // More than the reported room, or data after the end.
        if self.received_end || self.pending.len() + bytes.len() > WINDOW as usize {
            return Reply::RESET;
        }
        self.pending.extend(bytes);
        self.drain()
    }

    pub(super) fn finish(&mut self) -> Reply {
        self.received_end = true;
        self.drain()
    }

    pub(super) fn more_room(&mut self, count: u32) -> Reply {
        self.room = self.room.saturating_add(count);
        Reply::OPEN
    }

    fn drain(&mut self) -> Reply {
        if self.targets.is_some() {
            return Reply::OPEN;
        }
        while !self.pending.is_empty() {
            let (bytes, _) = self.pending.as_slices();
            match send(self.socket.as_raw_fd(), bytes, FLAGS) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.written += u32::try_from(count).unwrap_or(u32::MAX);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => return Reply::RESET,
            }
        }
        let mut frames = Vec::new();
        if self.written >= WINDOW / 4 && !self.received_end {
            frames.push(TunnelFrame::Room(self.written));
            self.written = 0;
        }
        if self.received_end && self.pending.is_empty() && !self.is_shut {
            self.is_shut = true;
            // A peer that is gone is noticed in the other direction.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        }
        Reply::new(frames, self.state())
    }

    fn state(&self) -> EndState {
        match self.sent_end && self.is_shut {
            true => EndState::Closed,
            false => EndState::Open,
        }
    }
}

/// Starts a connection to the first of `targets` that does not refuse at once.
fn next_socket(targets: &mut Targets) -> Option<OwnedFd> {
    while let Some(target) = targets.next() {
        match start_connect(target) {
            Ok(socket) => return Some(socket.into()),
            Err(error) => targets.failed(&error),
        }
    }
    None
}
