//! The root filesystem of the sandbox: assembling it, and changing over to it.

pub mod boot_id;
mod devices;
mod idmap;
mod include;
mod isolated;
mod kernel;
mod mount_ops;
mod mounts;
mod overlay;
mod path;
mod pivot;
mod place;
mod target;
mod tree;

pub use devices::{assign as assign_devices, set_access as set_device_access};
pub use include::{include, write};
pub use kernel::{KERNEL_FILESYSTEMS, mask as mask_kernel};
pub use mount_ops::bind;
pub use mounts::{add, mount_sys, move_mount, overlay_file, share_mounts};
pub use path::{below, make_dir};
pub use pivot::{drop_unseekable_meminfo, enter, pivot};
pub use place::{Mapping, Place};
pub use tree::new_root;
