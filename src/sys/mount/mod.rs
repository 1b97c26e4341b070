//! Mounts of this process alone: detached ones, and a mount namespace that is read-only.

pub mod bind;
pub mod detached;
pub mod read_only;
