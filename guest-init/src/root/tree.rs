//! What the root begins as.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use log::{debug, warn};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::mapped;
use super::mounts::{bind, mount_points_below, tmpfs};
use super::overlay::{Scratch, seal};
use super::target::{Last, locate};
use super::{Place, held, make_dir};
use crate::config::{Access, Root};
use crate::plan::KERNELS;

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
            let read_only = *access == Access::ReadOnly;
            bind(&source, &place.root, read_only)?;
            mapped::show(place, &place.root)?;
            match access {
                Access::Writable => make_kernels(&place.root)?,
                Access::Volatile => {
                    make_volatile(&scratch, &place.root)?;
                    make_kernels(&place.root)?;
                }
                Access::ReadOnly if lacks(&place.root, targets)? => {
                    scratch.cover(&place.root)?;
                    make_kernels(&place.root)?;
                    seal(&place.root)?;
                }
                Access::ReadOnly => {}
            }
        }
    }
    place.scratch = Some(scratch);
    Ok(())
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

/// Lays an overlay over each filesystem of a tree.
fn make_volatile(scratch: &Scratch, root: &Path) -> Result<()> {
    for path in mount_points_below(root)? {
        if path.is_dir() {
            match scratch.cover(&path) {
                Ok(()) => {}
                // A vfat cannot be below an overlay, for one.
                Err(error) if path != root => {
                    warn!("{error:#}: it is read-only");
                    seal(&path)?;
                }
                Err(error) => return Err(error),
            }
        } else if path.is_file() {
            // A single file becomes one of the filesystem around it.
            let doing = || format!("copying '{}'", path.display());
            let file = open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .with_context(doing)?;
            umount2(&path, MntFlags::MNT_DETACH).with_context(doing)?;
            fs::copy(held(&file), &path).with_context(doing)?;
        } else {
            seal(&path)?;
        }
    }
    Ok(())
}
