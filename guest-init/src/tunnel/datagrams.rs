//! The end of datagrams: each is carried whole, or lost.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{recv, send};

use super::end::{Done, FLAGS, ON, RESET, Step};
use crate::channel::wire::Passage;
use crate::tunnel::targets::{Targets, datagrams};

/// The longest there is.
const LONGEST: usize = 1 << 16;

/// How many one turn takes.
const TURN: usize = 16;

#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) socket: OwnedFd,
    /// In the guest: where else it may be answered, and what was sent first, until there is an answer.
    trial: Option<(Targets, Vec<u8>)>,
    /// The host's socket ends when whoever sends is forgotten.
    has_end: bool,
}

impl Datagrams {
    pub(super) fn new(socket: OwnedFd, trial: Option<(Targets, Vec<u8>)>) -> Self {
        Self {
            socket,
            has_end: trial.is_none(),
            trial,
        }
    }

    pub(super) fn reached(mut targets: Targets) -> Option<Self> {
        let socket = reach(&mut targets)?;
        Some(Self::new(socket, Some((targets, vec![]))))
    }

    pub(super) fn pump(&mut self) -> Done {
        let mut buffer = vec![0; LONGEST];
        let mut said = Vec::new();
        for _ in 0..TURN {
            match recv(self.socket.as_raw_fd(), &mut buffer, FLAGS) {
                Ok(0) if self.has_end => return (said, Step::Reset),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(count) => {
                    self.trial = None;
                    let bytes = buffer.get(..count).unwrap_or_default();
                    said.push(Passage::Data(bytes.to_vec()));
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) => return (said, self.elsewhere(errno)),
            }
        }
        (said, Step::On)
    }

    pub(super) fn accept(&mut self, bytes: Vec<u8>) -> Done {
        let sent = send(self.socket.as_raw_fd(), &bytes, FLAGS);
        if let Some((_, first)) = &mut self.trial
            && first.is_empty()
        {
            *first = bytes;
        }
        match sent {
            Err(errno @ (Errno::ECONNREFUSED | Errno::EPIPE | Errno::ECONNRESET)) => {
                (vec![], self.elsewhere(errno))
            }
            // One that does not fit is lost, as datagrams are.
            Ok(_) | Err(_) => ON,
        }
    }

    /// Nobody has listened where it led to: sends what was first to the next target.
    fn elsewhere(&mut self, errno: Errno) -> Step {
        let Some((targets, first)) = &mut self.trial else {
            return RESET.1;
        };
        targets.failed(&errno.into());
        let Some(socket) = reach(targets) else {
            return RESET.1;
        };
        let _ = send(socket.as_raw_fd(), first, FLAGS);
        self.socket = socket;
        Step::On
    }
}

/// A socket to the next target.
fn reach(targets: &mut Targets) -> Option<OwnedFd> {
    while let Some(target) = targets.next() {
        match datagrams(target) {
            Ok(socket) => return Some(socket.into()),
            Err(error) => targets.failed(&error),
        }
    }
    None
}
