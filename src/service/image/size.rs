//! How large the image of a tree has to be.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::{Bytes, KernelRequest, TreeImage};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::sys::path::below;
use crate::tree::{Class, TreePlan};

/// Room for what a filesystem needs itself, and for a first journal.
const OWN_ROOM: u64 = 32 << 20;

/// Size of an image that nobody has given one. It takes no more of the disk than what is written.
const USUAL: Bytes = Bytes::mebi(8192);

/// As small as mkfs.xfs(8) makes them.
const SMALLEST_XFS: u64 = 300 << 20;

/// The image of a tree that nobody has asked one for, where `driver` needs one.
///
/// # Errors
/// Where that cannot be told.
pub(in crate::service) fn needed_by(
    driver: Driver,
    kernel: &KernelRequest,
    plan: Option<(&TreePlan, &Path)>,
) -> Result<Option<TreeImage>> {
    let Some(reason) = driver.needs_image(kernel)? else {
        return Ok(None);
    };
    let filesystem = TreeFilesystem::default();
    let content = plan.map_or(0, |(plan, root)| content(plan, root));
    let size = needed(2 * content, filesystem).max(USUAL);
    let hint = plan.map_or("", |_| "; -i SIZE makes that another size");
    log::info!(
        "its tree goes into an image of {size}, since no directory would keep its owners: {reason}{hint}"
    );
    Ok(Some(TreeImage {
        size,
        format: TreeFormat::default(),
        filesystem,
    }))
}

/// Refuses an image that has no room for a tree.
///
/// # Errors
/// Names the size that is needed.
pub(in crate::service) fn check_size(image: TreeImage, plan: &TreePlan, root: &Path) -> Result<()> {
    let needed = needed(content(plan, root), image.filesystem);
    if image.size >= needed {
        return Ok(());
    }
    Err(Error::refused(format!(
        "an image of {} is too small: what belongs to the sandbox needs {needed}, and what it is to write comes on top",
        image.size
    )))
}

/// Bytes that the files of a plan take.
fn content(plan: &TreePlan, root: &Path) -> u64 {
    const BLOCK: u64 = 4096;
    let sizes = plan.entries.iter().map(|(path, entry)| {
        let from = match &entry.class {
            Class::Copied => path,
            Class::CopiedFrom(from) => from,
            Class::Empty | Class::Made { .. } | Class::Written { .. } | Class::Linked(_) => {
                return BLOCK;
            }
            Class::LeftOut | Class::Shared => return 0,
        };
        let metadata = below(root, from).symlink_metadata();
        metadata.map_or(0, |metadata| {
            // Holes stay holes.
            let used = metadata.len().min(metadata.blocks() * 512);
            used.next_multiple_of(BLOCK).max(BLOCK)
        })
    });
    sizes.sum()
}

fn needed(content: u64, filesystem: TreeFilesystem) -> Bytes {
    let with_room = content + content / 8 + OWN_ROOM;
    let least = match filesystem {
        TreeFilesystem::Ext4 => with_room,
        TreeFilesystem::Xfs => with_room.max(SMALLEST_XFS),
    };
    let mebi = least.div_ceil(1 << 20);
    Bytes::mebi(u32::try_from(mebi).unwrap_or(u32::MAX))
}

/// Says of a full image that it is, in place of the path that was written to, and what to do.
pub(in crate::service) fn explained(error: Error, image: Option<TreeImage>, remedy: &str) -> Error {
    let Some(image) = image else {
        return error;
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        let kind = inner
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        if kind == Some(ErrorKind::StorageFull) {
            return Error::refused(format!(
                "the image of {} is full before all is in it; {remedy}",
                image.size
            ));
        }
        cause = inner.source();
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_that_is_needed_is_named() {
        let image = TreeImage {
            size: Bytes::mebi(1),
            format: TreeFormat::Raw,
            filesystem: TreeFilesystem::Ext4,
        };
        let plan = TreePlan::default();
        let error = check_size(image, &plan, Path::new("/"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("1M is too small") && error.contains("needs 32M"),
            "{error}"
        );
        assert_eq!(needed(80 << 20, TreeFilesystem::Ext4), Bytes::mebi(122));
        assert_eq!(needed(1, TreeFilesystem::Xfs), Bytes::mebi(300));
        assert_eq!(needed(1 << 30, TreeFilesystem::Xfs), Bytes::mebi(1184));
    }

    #[test]
    fn a_full_image_is_called_full() {
        let full =
            || Error::io("writing", Path::new("/proc/self/fd/7/x"))(ErrorKind::StorageFull.into());
        let image = TreeImage {
            size: Bytes::mebi(40),
            format: TreeFormat::Raw,
            filesystem: TreeFilesystem::Ext4,
        };
        assert!(
            explained(full(), Some(image), "make it larger")
                .to_string()
                .contains("image of 40M is full")
        );
        assert!(explained(full(), None, "").to_string().contains("/x"));
        let other = Error::io("writing", Path::new("/x"))(ErrorKind::NotFound.into());
        assert!(explained(other, Some(image), "").to_string().contains("/x"));
    }
}
