//! Leaf wrappers of the operating system: paths resolved under a root, the exact copy of files,
//! locks, atomic writes, and the way into a running container.
//!
//! Nothing here knows what a sandbox is, and nothing here prints.

pub mod arch;
pub mod archive;
pub mod copy;
pub mod fault;
pub mod file;
pub mod image;
pub mod mount;
pub mod path;
pub mod process;
pub mod root;
pub mod text;

use crate::error::LowerError;

impl LowerError for file::atomic::WriteError {}
impl LowerError for file::lock::LockError {}
impl LowerError for root::RootError {}
