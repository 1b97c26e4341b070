//! Standard streams and terminals.

#[cfg(feature = "init")]
pub(crate) mod pty;
pub mod signals;
pub mod streams;
pub mod terminal;
