//! Commands that make, copy, change and remove sandboxes.

pub mod archive;
pub mod clone;
pub mod create;
pub mod delete;
pub mod rename;
pub mod repair;
pub mod snapshot;
pub mod upgrade;
