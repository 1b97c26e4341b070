//! Answer of an end of a connection to an event: frames for the other side, and what state the end is in.

use nix::sys::socket::MsgFlags;

use crate::channel::wire::TunnelFrame;

/// Flags of every send(2) and recv(2).
pub(super) const FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// State of an end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndState {
    Open,
    /// Everything has been carried.
    Closed,
    /// The end has failed, and the other side has to be told.
    Reset,
}

/// Answer of an end to an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Frames for the other side.
    pub(super) frames: Vec<TunnelFrame>,
    pub(super) state: EndState,
}

impl Reply {
    pub(super) const OPEN: Self = Self::new(vec![], EndState::Open);
    pub(super) const RESET: Self = Self::new(vec![], EndState::Reset);

    pub(super) const fn new(frames: Vec<TunnelFrame>, state: EndState) -> Self {
        Self { frames, state }
    }
}
