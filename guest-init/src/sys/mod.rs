//! Facts of the kernel, read from its own tables and from the bytes on a device; waiting for them.

pub mod cgroup;
pub mod filesystem;
pub mod first_process;
#[cfg(feature = "init")]
pub(crate) mod mount_api;
pub mod mountinfo;
pub mod poll;
#[cfg(feature = "init")]
pub(crate) mod unsupported;
