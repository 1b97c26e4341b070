//! Filesystems and disks of a sandbox.

pub mod disk;
pub mod image;
pub mod include;
pub mod mount;
pub mod tree_image;
