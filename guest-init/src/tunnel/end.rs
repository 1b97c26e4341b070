//! One end of a connection over a channel: a stream or datagrams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::poll::PollFlags;

use super::datagrams::Datagrams;
use super::reply::Reply;
use super::stream::Stream;
use crate::channel::wire::{Kind, TunnelFrame};
use crate::tunnel::targets::Targets;

/// Host's end of a connection to a port of the guest.
#[derive(Debug)]
pub struct Connection {
    /// Protocol of the socket.
    pub kind: Kind,
    /// Port in the guest.
    pub port: u16,
    /// Nonblocking socket. For datagrams it keeps messages apart and has an end (`SOCK_SEQPACKET`).
    pub socket: OwnedFd,
    /// Whether the connection failed before its end. Set before the socket is closed, by either side.
    pub is_reset: Arc<AtomicBool>,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) enum End {
    Stream(Stream),
    Datagrams(Datagrams),
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(stream) => stream.socket.as_fd(),
            Self::Datagrams(datagrams) => datagrams.socket.as_fd(),
        }
    }
}

impl End {
    /// Returns the host's end.
    pub(super) fn of_host(connection: Connection) -> Self {
        match connection.kind {
            Kind::Stream => Self::Stream(Stream::new(connection.socket, None, connection.is_reset)),
            Kind::Datagrams => Self::Datagrams(Datagrams::new(connection.socket, None)),
        }
    }

    /// Returns the guest's end, connecting to the first of `targets` that does not refuse at once.
    pub(super) fn of_guest(kind: Kind, targets: Targets) -> Option<Self> {
        Some(match kind {
            Kind::Stream => Self::Stream(Stream::connect(targets)?),
            Kind::Datagrams => Self::Datagrams(Datagrams::connect(targets)?),
        })
    }

    /// Closes the end so that its peer sees a failure instead of an end of data.
    pub(super) fn reset(self) {
        match self {
            Self::Stream(stream) => stream.reset(),
            // Senders of datagrams get no report.
            Self::Datagrams(_) => {}
        }
    }

    /// Returns the events to wait for.
    pub(super) fn wants(&self, has_room: bool) -> PollFlags {
        match self {
            Self::Stream(stream) => stream.wants(has_room),
            Self::Datagrams(_) if has_room => PollFlags::POLLIN,
            Self::Datagrams(_) => PollFlags::empty(),
        }
    }

    /// Handles events that poll(2) has reported.
    pub(super) fn advance(&mut self, events: PollFlags, has_room: bool) -> Reply {
        match self {
            Self::Stream(stream) => stream.advance(events, has_room),
            Self::Datagrams(_) if !has_room => Reply::OPEN,
            Self::Datagrams(datagrams) => datagrams.pump(),
        }
    }

    /// Handles a frame of the other side.
    pub(super) fn handle(&mut self, frame: TunnelFrame) -> Reply {
        match (self, frame) {
            (Self::Stream(stream), TunnelFrame::Data(bytes)) => stream.accept(bytes),
            (Self::Stream(stream), TunnelFrame::End) => stream.finish(),
            (Self::Stream(stream), TunnelFrame::Room(count)) => stream.more_room(count),
            (Self::Datagrams(datagrams), TunnelFrame::Data(bytes)) => datagrams.accept(bytes),
            // Meaningless here.
            (Self::Datagrams(_), TunnelFrame::End | TunnelFrame::Room(_))
            | (_, TunnelFrame::Open(..) | TunnelFrame::Reset) => Reply::OPEN,
        }
    }
}
