//! Size of the image of a tree.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::{Bytes, KernelRequest, TreeImage};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::sys::path::below;
use crate::tree::{Class, TreePlan};

/// Space for the filesystem's own data and a first journal, in bytes.
const OWN_ROOM: u64 = 32 << 20;

/// Default size of an image. It is sparse and takes only the written blocks.
const USUAL: Bytes = Bytes::mebi(8192);

/// Minimum size of mkfs.xfs(8), in bytes.
const SMALLEST_XFS: u64 = 300 << 20;

/// Returns a default image if `driver` needs one for this kernel of the host at `root`.
///
/// # Errors
/// The need cannot be determined.
pub(in crate::service) fn needed_by(
    root: &Path,
    driver: Driver,
    kernel: &KernelRequest,
    plan: Option<&TreePlan>,
) -> Result<Option<TreeImage>> {
    let Some(reason) = driver.needs_image(root, kernel)? else {
        return Ok(None);
    };
    let filesystem = TreeFilesystem::default();
    let content = plan.map_or(0, |plan| content(plan, root));
    let size = needed(2 * content, filesystem).max(USUAL);
    let hint = plan.map_or("", |_| "; -i SIZE makes that another size");
    log::info!(
        "its tree goes into an image of {size}, because a directory would not keep the owners of files: {reason}{hint}"
    );
    Ok(Some(TreeImage {
        size,
        format: TreeFormat::default(),
        filesystem,
    }))
}

/// Returns an error if an image is too small for a tree.
///
/// # Errors
/// The message names the required size.
pub(in crate::service) fn check_size(image: TreeImage, plan: &TreePlan, root: &Path) -> Result<()> {
    let needed = needed(content(plan, root), image.filesystem);
    if image.size >= needed {
        return Ok(());
    }
    Err(Error::refused(format!(
        "an image of {} is too small: the sandbox needs {needed} for its files, and room for what it will write",
        image.size
    )))
}

/// Returns the size of the files of a plan, in bytes.
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
            // Holes take no space.
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

/// Replaces the error of a write to a full image by one that says so and what to do.
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
                "the image of {} is full, and not all of the tree is in it; {remedy}",
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
