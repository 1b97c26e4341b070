//! Mounts of the sandbox, as the guest config and the kernel have them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::idmap;
use super::mount_ops::{bind, mount_tmpfs};
use super::path::{LastLink, below, make_dir, make_parent};
use super::place::Place;
use super::target::{Kind, create, ensure_mount_point};
use crate::config::{Mount, Source};

/// Adds one mount to the root.
pub fn add(place: &Place, wanted: &Mount) -> Result<()> {
    let doing = || format!("mounting '{}'", wanted.target().display());
    match wanted {
        Mount::Bind {
            source: wanted,
            target,
            read_only,
        } => {
            let source = place.resolve(wanted).with_context(doing)?;
            let kind = match fs::metadata(&source)
                .context("its source")
                .with_context(doing)?
            {
                metadata if metadata.is_dir() => Kind::Directory,
                _ => Kind::File,
            };
            let target = ensure_mount_point(place, target, kind).with_context(doing)?;
            bind(&source, &target, *read_only).with_context(doing)?;
            match wanted {
                Source::Stage(_) => idmap::map_owners(place, &target).with_context(doing),
                // Mapped already.
                Source::Sandbox(_) => Ok(()),
            }
        }
        Mount::Tmpfs { target, mode, size } => {
            let target = ensure_mount_point(place, target, Kind::Directory).with_context(doing)?;
            mount_tmpfs(&target, *mode, *size)
        }
        Mount::Directory { target } => ensure_mount_point(place, target, Kind::Directory)
            .with_context(doing)
            .map(drop),
        Mount::Symlink { points_to, target } => create(place, target, LastLink::Keep, |path| {
            make_parent(path)?;
            symlink(points_to, path)
        })
        .map(drop),
    }
}

/// Moves a mount of the staging root to the same path in the new root.
pub fn move_mount(place: &Place, path: &Path) -> Result<()> {
    let target = below(&place.root, path);
    make_dir(&target, 0o755)?;
    let none = None::<&str>;
    // Not by the open staging root: that takes `/proc`, which may have been moved before.
    let source = below(place.root.parent().unwrap_or(Path::new("/")), path);
    mount(Some(&source), &target, none, MsFlags::MS_MOVE, none)
        .with_context(|| format!("moving '{}' to the new root", path.display()))
}

/// Mounts a read-only `/sys`, which shows the current network namespace.
pub fn mount_sys(place: &Place) -> Result<()> {
    let target = below(&place.root, Path::new("/sys"));
    make_dir(&target, 0o755)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = Some("sysfs");
    mount(kind, &target, kind, flags, None::<&str>).context("mounting '/sys'")
}

/// Mounts a copy of `target` over it. Changes of the copy are lost when the sandbox ends.
pub fn overlay_file(place: &Place, target: &Path) -> Result<fs::File> {
    let doing = || format!("laying a file over '{}'", target.display());
    let target = ensure_mount_point(place, target, Kind::File).with_context(doing)?;
    let own = place.scratch()?.new_path();
    fs::write(&own, fs::read(&target).unwrap_or_default()).with_context(doing)?;
    bind(&own, &target, false).with_context(doing)?;
    let file = fs::File::options().read(true).write(true).open(&target);
    file.with_context(doing)
}

/// Shares mounts between the sandbox and the mount namespaces that are made in it. In a container systemd leaves this to its
/// container manager; without it, mounts that systemd makes for a unit, as for credentials, do not reach the namespace of the unit.
/// The host does not see them: all mounts were made private before.
pub fn share_mounts() -> Result<()> {
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).context("sharing the mounts")
}
