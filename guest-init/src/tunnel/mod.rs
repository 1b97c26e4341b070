//! Connections that are carried over one channel, each with a window of its own, so that one that nobody reads holds up no other.
//!
//! Both sides are alike but for the beginning: the host opens a connection for a socket that it has, and the guest makes one to
//! the port that was asked for. A host never opens anything for a guest.

mod datagrams;
mod end;
mod stream;
pub mod targets;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::end::{End, Step};
use crate::channel::link::Link;
use crate::channel::wire::{Exit, Frame, Kind, Passage};
use crate::tunnel::targets::Targets;

/// A socket whose other end is to be carried to the guest.
#[derive(Debug)]
pub struct Carried {
    /// What is spoken on it.
    pub kind: Kind,
    /// The port of the guest's that it is for.
    pub port: u16,
    /// The socket: nonblocking, and for datagrams one that keeps messages apart and has an end (`SOCK_SEQPACKET`).
    pub socket: OwnedFd,
    /// Whether it ended before its time. Set before it is closed, by either side.
    pub is_reset: Arc<AtomicBool>,
}

/// What has come of waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Something was done.
    Done,
    /// The other side is gone, or wants no more.
    Over {
        /// What the next one has said to attach, if there is one already.
        successor: Option<u64>,
        /// Why the guest could not go on, where it has said so.
        reason: Option<String>,
    },
}

/// Where ports lead, in the guest.
type Answers<'a> = &'a dyn Fn(u16) -> Targets;

/// Connections on a channel.
#[expect(
    missing_debug_implementations,
    reason = "functions have nothing to show"
)]
pub struct Tunnel<'a> {
    link: &'a mut Link,
    /// None on the host.
    answers: Option<Answers<'a>>,
    ends: BTreeMap<u32, End>,
    next: u32,
    /// The first to have its turn: others were before.
    first: u32,
}

impl<'a> Tunnel<'a> {
    /// The host's side.
    #[must_use]
    pub fn of_host(link: &'a mut Link) -> Self {
        Self::new(link, None)
    }

    /// The guest's side; `answers` says where a port may be answered.
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

    /// Carries a socket to the guest.
    pub fn open(&mut self, carried: Carried) {
        self.next = self.next.wrapping_add(1);
        let (id, kind, port) = (self.next, carried.kind, carried.port);
        self.send(id, Passage::Open(kind, port));
        self.ends.insert(id, End::carried(carried));
    }

    /// Waits until something can be done, or `wake` can be read, and does it.
    ///
    /// # Errors
    /// Where the other side speaks what cannot be understood, or the kernel refuses to wait.
    pub fn turn(&mut self, wake: Option<BorrowedFd<'_>>) -> io::Result<Turn> {
        // What has come before anybody waited, which nothing announces any more.
        if let Some(over) = self.hear()? {
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
            Err(Errno::EINTR) => return Ok(Turn::Done),
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
                // Whoever comes too late begins the next time.
                self.first = id;
                break;
            }
            self.advance(id, events);
        }
        if !of_link.is_empty() && !self.link.fill().unwrap_or(false) {
            return Ok(gone());
        }
        Ok(Turn::Done)
    }

    fn advance(&mut self, id: u32, events: PollFlags) {
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        let (said, step) = end.advance(events, self.link.has_room());
        self.conclude(id, said, step);
    }

    /// Passes on what an end has to say, and forgets one that is over.
    fn conclude(&mut self, id: u32, said: Vec<Passage>, step: Step) {
        for passage in said {
            self.send(id, passage);
        }
        match step {
            Step::On => {}
            Step::Over => drop(self.ends.remove(&id)),
            Step::Reset => {
                self.send(id, Passage::Reset);
                self.reset(id);
            }
        }
    }

    fn send(&mut self, id: u32, passage: Passage) {
        self.link.send(&Frame::Passage(id, passage));
    }

    fn reset(&mut self, id: u32) {
        if let Some(end) = self.ends.remove(&id) {
            end.reset();
        }
    }

    /// Obeys what the other side has said; gives why that was the last.
    fn hear(&mut self) -> io::Result<Option<Turn>> {
        while let Some(frame) = self.link.next_frame().map_err(io::Error::other)? {
            match frame {
                Frame::Passage(id, passage) => self.obey(id, passage),
                Frame::Attach(number) => {
                    return Ok(Some(Turn::Over {
                        successor: Some(number),
                        reason: None,
                    }));
                }
                Frame::Exit(exit) => {
                    let reason = match exit {
                        Exit::Failed { reason } | Exit::NotRun { reason, .. } => Some(reason),
                        Exit::Status { .. } | Exit::Signal { .. } => None,
                    };
                    return Ok(Some(Turn::Over {
                        successor: None,
                        reason,
                    }));
                }
                // Nothing of a tunnel's.
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

    fn obey(&mut self, id: u32, passage: Passage) {
        if let Passage::Open(kind, port) = passage {
            let Some(answers) = self.answers else { return };
            match End::reached(kind, answers(port)) {
                Some(end) => drop(self.ends.insert(id, end)),
                None => self.send(id, Passage::Reset),
            }
            return;
        }
        // One that is over here has been told of to the other side.
        let Some(end) = self.ends.get_mut(&id) else {
            return;
        };
        if passage == Passage::Reset {
            return self.reset(id);
        }
        let (said, step) = end.obey(passage);
        self.conclude(id, said, step);
    }
}

fn gone() -> Turn {
    Turn::Over {
        successor: None,
        reason: None,
    }
}

impl Drop for Tunnel<'_> {
    /// Nobody is left to believe that all has arrived.
    fn drop(&mut self) {
        for (_, end) in std::mem::take(&mut self.ends) {
            end.reset();
        }
    }
}

#[cfg(test)]
mod tests;
