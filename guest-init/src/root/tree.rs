//! The tree that a root begins as.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use log::{debug, warn};
use nix::mount::{MsFlags, mount};

use super::idmap;
use super::isolated::isolate;
use super::kernel::KERNEL_FILESYSTEMS;
use super::mount_ops::{bind, make_read_only, mount_points_below, mount_tmpfs};
use super::overlay::Scratch;
use super::path::{LastLink, below, locate, make_dir};
use super::place::Place;
use crate::config::{Access, Root};
use crate::sys::unsupported::is_unsupported;

/// Size of the tmpfs of an empty root, in bytes. It holds mount points only. The root is writable because hardened systemd units make
/// mount points of their own there.
const ROOT_SIZE: u64 = 64 << 20;

/// Mounts the tree of the new root. `targets` are mount points that it will need.
pub fn new_root(place: &mut Place, root: &Root, targets: &[PathBuf]) -> Result<()> {
    // Mounts made from here on must not propagate to the namespace that this one was copied from.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("making the mounts private")?;
    make_dir(&place.root, 0o755)?;
    let scratch = Scratch::mount(&place.root)?;
    match root {
        Root::Empty => mount_tmpfs(&place.root, 0o755, Some(ROOT_SIZE))?,
        Root::Tree { source, access } => {
            let source = place.staged(source)?;
            bind(&source, &place.root, *access == Access::ReadOnly)?;
            idmap::map_owners(place, &place.root)?;
            match access {
                Access::Writable => make_kernel_mount_points(&place.root)?,
                Access::Volatile => {
                    isolate(&scratch, &place.root)?;
                    make_kernel_mount_points(&place.root)?;
                }
                Access::Isolated => isolate_read_only(&scratch, &place.root, targets)?,
                Access::ReadOnly => complete_read_only(&scratch, &place.root, targets)?,
            }
        }
    }
    place.scratch = Some(scratch);
    Ok(())
}

/// Covers the root with an overlay if a read-only tree lacks mount points at its top.
fn complete_read_only(scratch: &Scratch, root: &Path, targets: &[PathBuf]) -> Result<()> {
    if lacks(root, targets)? {
        scratch.cover(root)?;
        make_kernel_mount_points(root)?;
        make_read_only(root)?;
    }
    Ok(())
}

/// Isolates a tree and makes it read-only.
fn isolate_read_only(scratch: &Scratch, root: &Path, targets: &[PathBuf]) -> Result<()> {
    match isolate(scratch, root) {
        Ok(overlays) => {
            make_kernel_mount_points(root)?;
            overlays
                .iter()
                .try_for_each(|overlay| make_read_only(overlay))
        }
        Err(error) if is_unsupported(&error) => {
            warn!(
                "{error:#}: sockets, pipes and locks of the host can be reached through the root; Linux 5.19 keeps them apart"
            );
            let points = mount_points_below(root)?;
            points.iter().try_for_each(|point| make_read_only(point))?;
            complete_read_only(scratch, root, targets)
        }
        Err(error) => Err(error),
    }
}

fn make_kernel_mount_points(root: &Path) -> Result<()> {
    let mut kernels = KERNEL_FILESYSTEMS.iter().map(Path::new);
    kernels.try_for_each(|path| make_dir(&below(root, path), 0o755))
}

/// Returns whether the first component of a target is missing in the root. Only an overlay over the root can take it, and that has to
/// be mounted before it becomes the root.
fn lacks(root: &Path, targets: &[PathBuf]) -> Result<bool> {
    for target in targets {
        let path = locate(root, target, LastLink::Follow)?;
        let inside = path.strip_prefix(root).unwrap_or(&path);
        let first = inside.components().next();
        if first.is_some_and(|first| !root.join(first).exists()) {
            debug!("'{}' has to be made beside the root", target.display());
            return Ok(true);
        }
    }
    Ok(false)
}
