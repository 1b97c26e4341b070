//! End of a connection with datagrams: each is carried whole or lost.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{recv, send};

use super::reply::{EndState, FLAGS, Reply};
use crate::channel::wire::TunnelFrame;
use crate::tunnel::targets::{Targets, open_datagrams};

/// Longest datagram.
const LONGEST: usize = 1 << 16;

/// Datagrams taken at one event.
const PER_EVENT: usize = 16;

#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) socket: OwnedFd,
    /// In the guest, until there is an answer: further targets, and the first datagram, to be sent to them again.
    trial: Option<(Targets, Vec<u8>)>,
    /// Whether a receive of 0 bytes is the end: the host closes its socket when it forgets the sender.
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

    pub(super) fn connect(mut targets: Targets) -> Option<Self> {
        let socket = next_socket(&mut targets)?;
        Some(Self::new(socket, Some((targets, vec![]))))
    }

    pub(super) fn pump(&mut self) -> Reply {
        let mut buffer = vec![0; LONGEST];
        let mut frames = Vec::new();
        for _ in 0..PER_EVENT {
            match recv(self.socket.as_raw_fd(), &mut buffer, FLAGS) {
                Ok(0) if self.has_end => return Reply::new(frames, EndState::Reset),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(count) => {
                    self.trial = None;
                    let bytes = buffer.get(..count).unwrap_or_default();
                    frames.push(TunnelFrame::Data(bytes.to_vec()));
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Reply::new(frames, self.try_next(errno)),
            }
        }
        Reply::new(frames, EndState::Open)
    }

    pub(super) fn accept(&mut self, bytes: Vec<u8>) -> Reply {
        let sent = send(self.socket.as_raw_fd(), &bytes, FLAGS);
        if let Some((_, first)) = &mut self.trial
            && first.is_empty()
        {
            *first = bytes;
        }
        match sent {
            Err(errno @ (Errno::ECONNREFUSED | Errno::EPIPE | Errno::ECONNRESET)) => {
                Reply::new(vec![], self.try_next(errno))
            }
            // A datagram that does not fit is lost.
            Ok(_) | Err(_) => Reply::OPEN,
        }
    }

    /// Sends the first datagram to the next target, since nobody listens at this one.
    fn try_next(&mut self, errno: Errno) -> EndState {
        let Some((targets, first)) = &mut self.trial else {
            return EndState::Reset;
        };
        targets.failed(&errno.into());
        let Some(socket) = next_socket(targets) else {
            return EndState::Reset;
        };
        let _ = send(socket.as_raw_fd(), first, FLAGS);
        self.socket = socket;
        EndState::Open
    }
}

/// Opens a socket to the next target.
fn next_socket(targets: &mut Targets) -> Option<OwnedFd> {
    while let Some(target) = targets.next() {
        match open_datagrams(target) {
            Ok(socket) => return Some(socket.into()),
            Err(error) => targets.failed(&error),
        }
    }
    None
}
