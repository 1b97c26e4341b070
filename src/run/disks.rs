//! Disks and images of the host: what they are, and what the guest's kernel needs for them.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use crate::config::{Disk, ImageFormat};
use crate::domain::BlockKind;
use crate::error::{Error, Result};
use crate::guest::kernel::Feature;
use crate::run::layout::Image;

/// What is behind a disk, which must be what was said.
pub fn kind(disk: &Disk) -> Result<BlockKind> {
    let source = disk.source();
    let metadata = fs::metadata(source).map_err(Error::io("looking at the disk", source))?;
    let (kind, is_right, wanted) = match disk {
        Disk::File { .. } => (BlockKind::File, metadata.is_file(), "an image file"),
        Disk::Block { .. } => (
            BlockKind::Block,
            metadata.file_type().is_block_device(),
            "a block device",
        ),
    };
    match is_right {
        true => Ok(kind),
        false => Err(Error::refused(format!(
            "the disk '{}' is not {wanted}",
            source.display()
        ))),
    }
}

/// What the guest's kernel needs to mount an image. What is in one that is not raw cannot be told from outside.
pub fn features(image: &Image) -> Result<Vec<Feature>> {
    let all = vec![
        Feature::Ext4,
        Feature::Xfs,
        Feature::Btrfs,
        Feature::Squashfs,
    ];
    match image.format {
        ImageFormat::Raw => Ok(all),
        _ => Ok(all),
    }
}
