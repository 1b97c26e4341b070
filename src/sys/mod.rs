//! Leaf wrappers of the operating system: paths resolved under a root, the exact copy of files,
//! locks and atomic writes.
//!
//! Nothing here knows what a sandbox is, and nothing here prints.

pub mod atomic;
pub mod copy;
pub mod lock;
pub mod root;
