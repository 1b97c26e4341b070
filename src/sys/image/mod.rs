//! Disk images: block devices over them, QEMU's locks, the files they name, and raw views of other formats.

pub mod holder;
pub mod image_lock;
pub mod loopdev;
pub mod mkfs;
pub mod references;
pub mod storage_daemon;
