//! One end of a connection that is carried over a channel.

use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;

use super::Carried;
use super::datagrams::Datagrams;
use super::stream::Stream;
use crate::channel::wire::{Kind, Passage};
use crate::tunnel::targets::Targets;

/// Of every send and receive.
pub(super) const FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// What becomes of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on.
    On,
    /// All that was to be carried is.
    Over,
    /// It has failed, of which the other side is to be told.
    Reset,
}

/// What is to be said to the other side, and what becomes of the end.
pub(super) type Done = (Vec<Passage>, Step);

pub(super) const ON: Done = (vec![], Step::On);
pub(super) const RESET: Done = (vec![], Step::Reset);

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
    /// The host's end.
    pub(super) fn carried(carried: Carried) -> Self {
        match carried.kind {
            Kind::Stream => Self::Stream(Stream::new(carried.socket, None, carried.is_reset)),
            Kind::Datagrams => Self::Datagrams(Datagrams::new(carried.socket, None)),
        }
    }

    /// The guest's end, on its way to the first of `targets` that does not refuse at once.
    pub(super) fn reached(kind: Kind, targets: Targets) -> Option<Self> {
        Some(match kind {
            Kind::Stream => Self::Stream(Stream::reached(targets)?),
            Kind::Datagrams => Self::Datagrams(Datagrams::reached(targets)?),
        })
    }

    /// Ends it so that nobody believes to have heard all.
    pub(super) fn reset(self) {
        match self {
            Self::Stream(stream) => stream.reset(),
            // Who sends datagrams is told nothing.
            Self::Datagrams(_) => {}
        }
    }

    /// What to wait for.
    pub(super) fn wants(&self, has_room: bool) -> PollFlags {
        match self {
            Self::Stream(stream) => stream.wants(has_room),
            Self::Datagrams(_) if has_room => PollFlags::POLLIN,
            Self::Datagrams(_) => PollFlags::empty(),
        }
    }

    /// Goes on, after poll(2) has told of `events`.
    pub(super) fn advance(&mut self, events: PollFlags, has_room: bool) -> Done {
        match self {
            Self::Stream(stream) => stream.advance(events, has_room),
            Self::Datagrams(_) if !has_room => ON,
            Self::Datagrams(datagrams) => datagrams.pump(),
        }
    }

    /// What the other side has said.
    pub(super) fn obey(&mut self, passage: Passage) -> Done {
        match (self, passage) {
            (Self::Stream(stream), Passage::Data(bytes)) => stream.accept(bytes),
            (Self::Stream(stream), Passage::End) => stream.finish(),
            (Self::Stream(stream), Passage::Room(count)) => stream.more_room(count),
            (Self::Datagrams(datagrams), Passage::Data(bytes)) => datagrams.accept(bytes),
            // What makes no sense here.
            (Self::Datagrams(_), Passage::End | Passage::Room(_))
            | (_, Passage::Open(..) | Passage::Reset) => ON,
        }
    }
}
