//! Connections multiplexed over one channel. Each has a window of its own, so one that nobody reads does not hold up the others.
//!
//! The sides differ only in how a connection begins: the host opens it for a socket that it has, and the guest connects to the
//! requested port. The host never opens a connection for a guest.

mod datagrams;
mod end;
mod reply;
mod stream;
pub mod targets;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::end::Connection;
use self::end::End;
use self::reply::{EndState, Reply};
use crate::channel::link::Link;
use crate::channel::wire::{Exit, Frame, TunnelFrame};
use crate::tunnel::targets::Targets;

/// Outcome of waiting for a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The tunnel goes on.
    Made,
    /// The other side is gone, or wants no more.
    Closed {
        /// Number with which the next client has attached, if there is one already.
        successor: Option<u64>,
        /// Reason of a guest that could not go on.
        reason: Option<String>,
    },
}

/// Finds the targets of a port, in the guest.
type Answers<'a> = &'a dyn Fn(u16) -> Targets;

/// One side of the connections over a channel.
#[expect(
    missing_debug_implementations,
    reason = "closures have no debug representation"
)]
pub struct Tunnel<'a> {
    link: &'a mut Link,
    /// Absent on the host.
    answers: Option<Answers<'a>>,
    ends: BTreeMap<u32, End>,
    next: u32,
    /// Connection whose events are handled first, so that each gets its turn.
    first: u32,
}

impl<'a> Tunnel<'a> {
    /// Returns the host's side.
    #[must_use]
    pub fn of_host(link: &'a mut Link) -> Self {
        Self::new(link, None)
    }

    /// Returns the guest's side; `answers` finds the targets of a port.
    #[must_use]
    pub fn of_guest(link: &'a mut Link, answers: Answers<'a>) -> Self {
        Self::new(link, Some(answers))
    }

    fn new(link: &'a mut Link, answers: Option<Answers<'a>>) -> Self {
        Self {
            link,
            answers,
            ends: BTreeMap::new(),
            next: 0,
            first: 0,
        }
    }

    /// Opens a connection to the guest.
    pub fn open(&mut self, connection: Connection) {
        self.next = self.next.wrapping_add(1);
        let (id, kind, port) = (self.next, connection.kind, connection.port);
        self.send(id, TunnelFrame::Open(kind, port));
        self.ends.insert(id, End::of_host(connection));
    }

    /// Waits for an event, or until `wake` can be read, and handles the event.
    pub fn poll_once(&mut self, wake: Option<BorrowedFd<'_>>) -> io::Result<Progress> {
        // Frames read earlier: poll(2) does not report them again.
        if let Some(over) = self.handle_frames()? {
            return Ok(over);
        }
        if self.link.flush().is_err() {
            return Ok(gone());
        }
        let has_room = self.link.has_room();
        let (before, after) = (self.ends.range(..self.first), self.ends.range(self.first..));
        let waiting: Vec<(u32, PollFlags)> = after
            .chain(before)
            .map(|(id, end)| (*id, end.wants(has_room)))
            .filter(|(_, wants)| !wants.is_empty())
            .collect();
        let mut polled = vec![PollFd::new(self.link.as_fd(), self.link.wants())];
        let ends = waiting.iter().filter_map(|(id, wants)| {
            let end = self.ends.get(id)?;
            Some(PollFd::new(end.as_fd(), *wants))
        });
        polled.extend(ends);
        polled.extend(wake.map(|wake| PollFd::new(wake, PollFlags::POLLIN)));
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Progress::Made),
            Err(error) => return Err(error.into()),
        }
        let found = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let of_link = polled.first().map_or(PollFlags::empty(), found);
        let of_ends: Vec<(u32, PollFlags)> = waiting
            .iter()
            .zip(polled.iter().skip(1).map(found))
            .filter(|(_, events)| !events.is_empty())
            .map(|((id, _), events)| (*id, events))
            .collect();
        drop(polled);
        for (id, events) in of_ends {
            if !self.link.has_room() && !events.contains(PollFlags::POLLOUT) {
                // The channel is full: this one is the first next time.
                self.first = id;
                break;
            }
            self.advance(id, events);
        }
        if !of_link.is_empty() && !self.link.fill().unwrap_or(false) {
            return Ok(gone());
        }
        Ok(Progress::Made)
    }

    fn advance(&mut self, id: u32, events: PollFlags) {
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        let reply = end.advance(events, self.link.has_room());
        self.apply(id, reply);
    }

    /// Sends the frames of a reply, and removes an end that is closed.
    fn apply(&mut self, id: u32, reply: Reply) {
        for frame in reply.frames {
            self.send(id, frame);
        }
        match reply.state {
            EndState::Open => {}
            EndState::Closed => drop(self.ends.remove(&id)),
            EndState::Reset => {
                self.send(id, TunnelFrame::Reset);
                self.reset(id);
            }
        }
    }

    fn send(&mut self, id: u32, frame: TunnelFrame) {
        self.link.send(&Frame::Tunnel(id, frame));
    }

    fn reset(&mut self, id: u32) {
        if let Some(end) = self.ends.remove(&id) {
            end.reset();
        }
    }

    /// Handles the frames of the other side; returns a value if the tunnel is closed.
    fn handle_frames(&mut self) -> io::Result<Option<Progress>> {
        while let Some(frame) = self.link.next_frame().map_err(io::Error::other)? {
            match frame {
                Frame::Tunnel(id, frame) => self.handle_frame(id, frame),
                Frame::Attach(number) => {
                    return Ok(Some(Progress::Closed {
                        successor: Some(number),
                        reason: None,
                    }));
                }
                Frame::Exit(exit) => {
                    let reason = match exit {
                        Exit::Failed { reason } | Exit::NotRun { reason, .. } => Some(reason),
                        Exit::Status { .. } | Exit::Signal { .. } => None,
                    };
                    return Ok(Some(Progress::Closed {
                        successor: None,
                        reason,
                    }));
                }
                // No frames of a tunnel.
                Frame::Config(_)
                | Frame::Milestone(_)
                | Frame::Log(_)
                | Frame::Data(..)
                | Frame::End(_)
                | Frame::Room(..)
                | Frame::Signal(_)
                | Frame::Resize(..)
                | Frame::Hello(_) => {}
            }
        }
        Ok(None)
    }

    fn handle_frame(&mut self, id: u32, frame: TunnelFrame) {
        if let TunnelFrame::Open(kind, port) = frame {
            let Some(answers) = self.answers else { return };
            match End::of_guest(kind, answers(port)) {
                Some(end) => drop(self.ends.insert(id, end)),
                None => self.send(id, TunnelFrame::Reset),
            }
            return;
        }
        // The other side has been told about an end that is closed here.
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        if frame == TunnelFrame::Reset {
            return self.reset(id);
        }
        let reply = end.handle(frame);
        self.apply(id, reply);
    }
}

fn gone() -> Progress {
    Progress::Closed {
        successor: None,
        reason: None,
    }
}

impl Drop for Tunnel<'_> {
    /// Resets all connections, so that no peer takes what it got for everything.
    fn drop(&mut self) {
        for (_, end) in std::mem::take(&mut self.ends) {
            end.reset();
        }
    }
}

#[cfg(test)]
mod tests;
