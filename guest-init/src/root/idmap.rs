//! Idmapped mounts (`mount_setattr(2)`): owners of files as ids of a user namespace.
//!
//! The files do not change: user 33 of a tree is user 33 in the sandbox, whichever id of the host that maps to.

use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::mount_ops::mount_points_below;
use super::place::Place;
use crate::sys::mount_api::Detached;

/// Replaces the mounts at `target` and below by idmapped ones. On a filesystem without support for them, all files are nobody's in
/// the sandbox.
pub fn map_owners(place: &Place, target: &Path) -> Result<()> {
    let Some(mapping) = &place.mapping else {
        return Ok(());
    };
    let points = mount_points_below(target)?;
    let copies = points.into_iter().map(|point| {
        let doing = || format!("mapping the owners below '{}'", point.display());
        let copy = Detached::copy(&point).with_context(doing)?;
        match copy.map_ids(&mapping.namespace) {
            Ok(()) => {}
            // Not supported, or mapped already: a mount can be mapped only once, before it is attached.
            Err(Errno::EINVAL | Errno::EPERM) => log_unmapped(&point),
            Err(error) => return Err(error).with_context(doing),
        }
        Ok((point, copy))
    });
    let copies: Vec<_> = copies.collect::<Result<_>>()?;
    umount2(target, MntFlags::MNT_DETACH)
        .with_context(|| format!("replacing '{}'", target.display()))?;
    for (point, copy) in copies {
        let doing = || format!("replacing '{}'", point.display());
        copy.attach(&point).with_context(doing)?;
    }
    Ok(())
}

fn log_unmapped(point: &Path) {
    let is_read_only = statvfs(point).is_ok_and(|of| of.flags().contains(FsFlags::ST_RDONLY));
    let level = match is_read_only {
        true => log::Level::Debug,
        false => log::Level::Warn,
    };
    log::log!(
        level,
        "'{}': its filesystem cannot show owners in a user namespace: all is nobody's there",
        point.display()
    );
}
