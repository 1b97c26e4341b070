//! The end of a stream: each direction has an end of its own, and none runs ahead of who reads it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc::linger;
use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, recv, send, setsockopt, shutdown, sockopt};

use super::end::{Done, FLAGS, ON, RESET, Step};
use crate::channel::wire::{CHUNK, Passage, WINDOW};
use crate::tunnel::targets::{Targets, begin, connected};

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: OwnedFd,
    /// Where else it may be answered; none once it is.
    targets: Option<Targets>,
    is_reset: Arc<AtomicBool>,
    /// Bytes that the other side has room for.
    room: u32,
    /// What came and is not written yet; never more than [`WINDOW`].
    pending: VecDeque<u8>,
    /// Bytes written since the other side was told of room.
    written: u32,
    /// The other side was told that no more comes from here.
    has_ended: bool,
    /// The other side has told so.
    ends: bool,
    /// That was passed on.
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
            has_ended: false,
            ends: false,
            is_shut: false,
        }
    }

    pub(super) fn reached(mut targets: Targets) -> Option<Self> {
        let socket = reach(&mut targets)?;
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
        let reads = has_room && self.room > 0 && !self.has_ended;
        let mut wants = PollFlags::empty();
        wants.set(PollFlags::POLLIN, reads);
        wants.set(PollFlags::POLLOUT, !self.pending.is_empty());
        wants
    }

    pub(super) fn advance(&mut self, events: PollFlags, has_room: bool) -> Done {
        if self.targets.is_some() {
            return match connected(self.socket.as_fd()) {
                Ok(false) => ON,
                Ok(true) => {
                    self.targets = None;
                    self.drain()
                }
                Err(error) => self.elsewhere(&error),
            };
        }
        let wants = self.wants(has_room);
        let failed = PollFlags::POLLHUP | PollFlags::POLLERR;
        let may = |event| wants.contains(event) && events.intersects(event | failed);
        let (mut said, mut step) = ON;
        if may(PollFlags::POLLOUT) {
            (said, step) = self.drain();
        }
        if may(PollFlags::POLLIN) && step == Step::On {
            let (more, then) = self.pump();
            said.extend(more);
            step = then;
        }
        (said, step)
    }

    /// Nobody listens where it led to: tries the next target.
    fn elsewhere(&mut self, error: &std::io::Error) -> Done {
        let reached = self.targets.as_mut().and_then(|targets| {
            targets.failed(error);
            reach(targets)
        });
        match reached {
            Some(socket) => {
                self.socket = socket;
                ON
            }
            None => RESET,
        }
    }

    fn pump(&mut self) -> Done {
        let mut buffer = [0; CHUNK];
        let most = CHUNK.min(self.room as usize);
        match recv(self.socket.as_raw_fd(), &mut buffer[..most], FLAGS) {
            Ok(0) if self.is_reset.load(Ordering::Acquire) => RESET,
            Ok(0) => {
                self.has_ended = true;
                (vec![Passage::End], self.step())
            }
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                self.room -= u32::try_from(count).unwrap_or(self.room);
                (vec![Passage::Data(bytes)], Step::On)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => ON,
            Err(_) => RESET,
        }
    }

    pub(super) fn accept(&mut self, bytes: Vec<u8>) -> Done {
        // The other side was not given that much room, or has said that no more comes.
        if self.ends || self.pending.len() + bytes.len() > WINDOW as usize {
            return RESET;
        }
        self.pending.extend(bytes);
        self.drain()
    }

    pub(super) fn finish(&mut self) -> Done {
        self.ends = true;
        self.drain()
    }

    pub(super) fn more_room(&mut self, count: u32) -> Done {
        self.room = self.room.saturating_add(count);
        ON
    }

    fn drain(&mut self) -> Done {
        if self.targets.is_some() {
            return ON;
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
                Err(_) => return RESET,
            }
        }
        let mut said = Vec::new();
        if self.written >= WINDOW / 4 && !self.ends {
            said.push(Passage::Room(self.written));
            self.written = 0;
        }
        if self.ends && self.pending.is_empty() && !self.is_shut {
            self.is_shut = true;
            // One that has gone altogether is noticed by the other direction.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        }
        (said, self.step())
    }

    fn step(&self) -> Step {
        match self.has_ended && self.is_shut {
            true => Step::Over,
            false => Step::On,
        }
    }
}

/// A connection on its way to the first of `targets` that does not refuse at once.
fn reach(targets: &mut Targets) -> Option<OwnedFd> {
    while let Some(target) = targets.next() {
        match begin(target) {
            Ok(socket) => return Some(socket.into()),
            Err(error) => targets.failed(&error),
        }
    }
    None
}
