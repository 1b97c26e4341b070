//! What the root begins as.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use log::{debug, warn};
use nix::mount::{MsFlags, mount};

use super::isolated::isolate;
use super::mapped;
use super::mounts::{bind, mount_points_below, tmpfs};
use super::overlay::{Scratch, seal};
use super::target::{Last, locate};
use super::{Place, make_dir};
use crate::boot::plan::KERNELS;
use crate::config::{Access, Root};
use crate::sys::unsupported::is_unsupported;

/// Size of an empty root's own tmpfs in bytes. It holds mount points only; a writable root is needed
/// by the hardening of systemd units, which make mount points of their own there.
const ROOT_SIZE: u64 = 64 << 20;

/// Mounts what the root begins as. `targets` are mount points that it will need.
///
/// # Errors
/// Where the kernel refuses, or the tree is not there.
pub fn new_root(place: &mut Place, root: &Root, targets: &[PathBuf]) -> Result<()> {
    // What is mounted from here on must not travel back to where the namespace came from.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("making the mounts private")?;
    make_dir(&place.root, 0o755)?;
    let scratch = Scratch::mount(&place.root)?;
    match root {
        Root::Empty => tmpfs(&place.root, 0o755, Some(ROOT_SIZE))?,
        Root::Tree { source, access } => {
            let source = place.staged(source)?;
            bind(&source, &place.root, *access == Access::ReadOnly)?;
            mapped::show(place, &place.root)?;
            match access {
                Access::Writable => make_kernels(&place.root)?,
                Access::Volatile => {
                    isolate(&scratch, &place.root)?;
                    make_kernels(&place.root)?;
                }
                Access::Isolated => read_isolated(&scratch, &place.root, targets)?,
                Access::ReadOnly => read(&scratch, &place.root, targets)?,
            }
        }
    }
    place.scratch = Some(scratch);
    Ok(())
}

/// Makes the mount points that a sealed tree lacks beside its root.
fn read(scratch: &Scratch, root: &Path, targets: &[PathBuf]) -> Result<()> {
    if lacks(root, targets)? {
        scratch.cover(root)?;
        make_kernels(root)?;
        seal(root)?;
    }
    Ok(())
}

/// Keeps a tree apart from others who have it, and seals it.
fn read_isolated(scratch: &Scratch, root: &Path, targets: &[PathBuf]) -> Result<()> {
    match isolate(scratch, root) {
        Ok(overlays) => {
            make_kernels(root)?;
            overlays.iter().try_for_each(|overlay| seal(overlay))
        }
        Err(error) if is_unsupported(&error) => {
            warn!(
                "{error:#}: sockets, pipes and locks of the host can be reached through the root; Linux 5.19 keeps them apart"
            );
            let points = mount_points_below(root)?;
            points.iter().try_for_each(|point| seal(point))?;
            read(scratch, root, targets)
        }
        Err(error) => Err(error),
    }
}

/// What is moved here later has to have a place then.
fn make_kernels(root: &Path) -> Result<()> {
    let mut kernels = KERNELS.iter().map(Path::new);
    kernels.try_for_each(|path| make_dir(&super::below(root, path), 0o755))
}

/// Whether some of the targets begins with a directory that the root does not have. An overlay further down could not
/// make it, and one over the root has to be there before it becomes the root.
fn lacks(root: &Path, targets: &[PathBuf]) -> Result<bool> {
    for target in targets {
        let path = locate(root, target, Last::Followed)?;
        let inside = path.strip_prefix(root).unwrap_or(&path);
        let first = inside.components().next();
        if first.is_some_and(|first| !root.join(first).exists()) {
            debug!("'{}' has to be made beside the root", target.display());
            return Ok(true);
        }
    }
    Ok(false)
}
