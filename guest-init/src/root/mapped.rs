//! Owners of files as the ids of a user namespace (idmapped mounts, `mount_setattr(2)`).
//!
//! What is on the disk stays as it is: user 33 of a tree is user 33 in the sandbox, whatever id of the host that is there.

use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Place;
use super::mounts::mount_points_below;
use crate::sys::mount_api::Detached;

/// Replaces what is mounted at `target` and below by mounts that show owners as the sandbox's. A filesystem that cannot do so
/// shows them as nobody's.
pub fn show(place: &Place, target: &Path) -> Result<()> {
    let Some(mapping) = &place.mapping else {
        return Ok(());
    };
    let points = mount_points_below(target)?;
    let copies = points.into_iter().map(|point| {
        let doing = || format!("mapping the owners below '{}'", point.display());
        let copy = Detached::copy(&point).with_context(doing)?;
        match copy.map_ids(&mapping.namespace) {
            Ok(()) => {}
            // Only a mount that nobody sees yet can be mapped, and only once.
            Err(Errno::EINVAL | Errno::EPERM) => say_unmapped(&point),
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

fn say_unmapped(point: &Path) {
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
