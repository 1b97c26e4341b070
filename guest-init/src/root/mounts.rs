//! Mounts of the sandbox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::mapped;
use super::overlay::{seal, table};
use super::target::{Kind, Last, create, make_parent, provide};
use super::{Place, below, make_dir};
use crate::config::{Mount, Source};
use crate::sys::mountinfo;

/// Adds one mount to the root.
///
/// # Errors
/// With the target, and what hinders.
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
            let target = provide(place, target, kind).with_context(doing)?;
            bind(&source, &target, *read_only).with_context(doing)?;
            match wanted {
                Source::Stage(_) => mapped::show(place, &target).with_context(doing),
                // What is in the sandbox already is mapped.
                Source::Sandbox(_) => Ok(()),
            }
        }
        Mount::Tmpfs { target, mode, size } => {
            let target = provide(place, target, Kind::Directory).with_context(doing)?;
            tmpfs(&target, *mode, *size)
        }
        Mount::Directory { target } => provide(place, target, Kind::Directory)
            .with_context(doing)
            .map(drop),
        Mount::Symlink { points_to, target } => create(place, target, Last::Kept, |path| {
            make_parent(path)?;
            symlink(points_to, path)
        })
        .map(drop),
    }
}

/// Binds with all that is mounted below the source.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, none, flags, none)
        .with_context(|| format!("binding '{}' to '{}'", source.display(), target.display()))?;
    if read_only {
        // MS_BIND does not take other flags at once, and a remount reaches one mount only, so each
        // submount gets its own.
        for mount_point in mount_points_below(target)? {
            seal(&mount_point)?;
        }
    }
    Ok(())
}

/// What the mount at `path` forbids, and would allow again if a remount did not repeat it (mount(2)).
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

pub fn tmpfs(target: &Path, mode: u32, size: Option<u64>) -> Result<()> {
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

/// The mount points of the tree that is mounted at `path`, outermost first.
pub fn mount_points_below(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(mountinfo::tree_at(&table()?, path))
}

/// Carries a mount of the staging root over to the same place in the new one.
///
/// # Errors
/// Where the kernel refuses.
pub fn carry_over(place: &Place, path: &Path) -> Result<()> {
    let target = below(&place.root, path);
    make_dir(&target, 0o755)?;
    let none = None::<&str>;
    // `/proc` may have gone before, and with it the way through open files.
    let source = below(place.root.parent().unwrap_or(Path::new("/")), path);
    mount(Some(&source), &target, none, MsFlags::MS_MOVE, none)
        .with_context(|| format!("moving '{}' to the new root", path.display()))
}

/// Mounts `/sys` as the network namespace that we are in shows it, read-only.
///
/// # Errors
/// Where the kernel refuses.
pub fn own_sys(place: &Place) -> Result<()> {
    let target = below(&place.root, Path::new("/sys"));
    make_dir(&target, 0o755)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = Some("sysfs");
    mount(kind, &target, kind, flags, None::<&str>).context("mounting '/sys'")
}

/// Lays a file over `target` that begins like it and is the sandbox's own: changes are thrown away.
///
/// # Errors
/// Where the kernel refuses.
pub fn own_file(place: &Place, target: &Path) -> Result<fs::File> {
    let doing = || format!("laying a file over '{}'", target.display());
    let target = provide(place, target, Kind::File).with_context(doing)?;
    let own = place.scratch()?.fresh();
    fs::write(&own, fs::read(&target).unwrap_or_default()).with_context(doing)?;
    bind(&own, &target, false).with_context(doing)?;
    let file = fs::File::options().read(true).write(true).open(&target);
    file.with_context(doing)
}

/// Shares mounts between the sandbox and the namespaces that are made in it, which systemd leaves to who starts it in a
/// container: what it mounts for a unit in a namespace of its own, as credentials, else never gets to where the unit sees it.
/// Nothing of this reaches the host, whose mounts these were copied from privately.
///
/// # Errors
/// Where the kernel refuses.
pub fn share_mounts() -> Result<()> {
    let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).context("sharing the mounts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remount_repeats_what_is_forbidden() {
        let both = FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC | FsFlags::ST_RDONLY;
        assert_eq!(restrictions(both), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
        assert_eq!(restrictions(FsFlags::ST_NOSUID), MsFlags::MS_NOSUID);
        assert_eq!(restrictions(FsFlags::empty()), MsFlags::empty());
    }
}
