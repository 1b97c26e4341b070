//! Single mounts: bind, tmpfs, remount.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::sys::mountinfo::{self, MountInfo};

/// Binds `source` to `target` with all mounts below it.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, none, flags, none)
        .with_context(|| format!("binding '{}' to '{}'", source.display(), target.display()))?;
    if read_only {
        // MS_BIND ignores MS_RDONLY, and a remount changes one mount only (mount(2)).
        for mount_point in mount_points_below(target)? {
            make_read_only(&mount_point)?;
        }
    }
    Ok(())
}

/// Returns the restrictions of the mount at `path`. A remount that does not repeat them lifts them (mount(2)).
pub fn restrictions_of(path: &Path) -> Result<MsFlags> {
    let of = statvfs(path).with_context(|| format!("reading the flags of '{}'", path.display()))?;
    Ok(restrictions(of.flags()))
}

fn restrictions(of: FsFlags) -> MsFlags {
    [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ]
    .into_iter()
    .filter(|(has, _)| of.contains(*has))
    .map(|(_, flag)| flag)
    .collect()
}

pub fn mount_tmpfs(target: &Path, mode: u32, size: Option<u64>) -> Result<()> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .with_context(|| format!("mounting a tmpfs on '{}'", target.display()))
}

/// Returns the mount points of the tree that is mounted at `path`, outermost first.
pub fn mount_points_below(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(mountinfo::tree_at(&read_mounts()?, path))
}

/// Makes one mount read-only.
pub fn make_read_only(mount_point: &Path) -> Result<()> {
    remount(mount_point, MsFlags::MS_RDONLY)
}

pub fn remount(mount_point: &Path, access: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NODEV;
    let flags = flags | access | restrictions_of(mount_point)?;
    let none = None::<&str>;
    mount(none, mount_point, none, flags, none).with_context(|| {
        let what = match access.contains(MsFlags::MS_RDONLY) {
            true => "read-only",
            false => "writable",
        };
        format!("making '{}' {what}", mount_point.display())
    })
}

/// Reads the mounts of the calling thread.
pub fn read_mounts() -> Result<Vec<MountInfo>> {
    mountinfo::read().context("reading the mounts of this process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remount_keeps_restrictions() {
        let both = FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC | FsFlags::ST_RDONLY;
        assert_eq!(restrictions(both), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
        assert_eq!(restrictions(FsFlags::ST_NOSUID), MsFlags::MS_NOSUID);
        assert_eq!(restrictions(FsFlags::empty()), MsFlags::empty());
    }
}
