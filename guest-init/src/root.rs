//! Assembling the root filesystem of the sandbox and changing over to it.

use std::fs;
use std::io::Seek;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};

use crate::config::{File, Mount};
use crate::mountinfo::mount_points;
use crate::{CARRIED_MOUNTS, NEW_ROOT, STAGED_MOUNTS};

/// Size of the root's own tmpfs in bytes. It holds mount points only; a writable root is needed
/// by the hardening of systemd units, which make mount points of their own there.
const ROOT_SIZE: u64 = 64 << 20;

/// The path of `inside` below `root`.
pub fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Mounts the empty tmpfs that becomes the root.
pub fn new_root() -> Result<()> {
    // What is mounted from here on must not travel back to where the namespace came from.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("making the mounts private")?;
    make_dir(Path::new(NEW_ROOT), 0o755)?;
    tmpfs(Path::new(NEW_ROOT), 0o755, Some(ROOT_SIZE))
}

/// Adds one mount to the tree below `root`.
pub fn add(root: &Path, wanted: &Mount) -> Result<()> {
    match wanted {
        Mount::Bind {
            source,
            target,
            read_only,
        } => bind(source, &below(root, target), *read_only),
        Mount::Tmpfs { target, mode, size } => {
            let target = below(root, target);
            make_dir(&target, 0o755)?;
            tmpfs(&target, *mode, *size)
        }
        Mount::Symlink { points_to, target } => {
            let target = below(root, target);
            make_parent(&target)?;
            symlink(points_to, &target).with_context(|| format!("linking '{}'", target.display()))
        }
    }
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let doing = || format!("binding '{}' to '{}'", source.display(), target.display());
    if fs::metadata(source).with_context(doing)?.is_dir() {
        make_dir(target, 0o755)?;
    } else if !target.exists() {
        make_parent(target)?;
        fs::write(target, "").with_context(doing)?;
    }
    let none = None::<&str>;
    mount(
        Some(source),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .with_context(doing)?;
    if read_only {
        // MS_BIND does not take other flags at once, and a remount reaches one mount only, so each
        // submount gets its own.
        // The table of mounts has the place that links on the way lead to.
        let target = fs::canonicalize(target).with_context(doing)?;
        for mount_point in mount_points_below(&target)? {
            let flags = MsFlags::MS_BIND
                | MsFlags::MS_REMOUNT
                | MsFlags::MS_RDONLY
                | MsFlags::MS_NODEV
                | restrictions(statvfs(&mount_point).with_context(doing)?.flags());
            mount(none, &mount_point, none, flags, none)
                .with_context(|| format!("making '{}' read-only", mount_point.display()))?;
        }
    }
    Ok(())
}

/// What a mount forbids, and would allow again if a remount did not repeat it (mount(2)).
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

fn tmpfs(target: &Path, mode: u32, size: Option<u64>) -> Result<()> {
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

/// Mount points at or below `path`, outermost first.
fn mount_points_below(path: &Path) -> Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("reading '/proc/self/mountinfo'")?;
    let mut found: Vec<PathBuf> = mount_points(&table)
        .filter(|mount_point| mount_point.starts_with(path))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Carries a mount of the staging root over to the same place in the new one.
pub fn carry_over(path: &Path) -> Result<()> {
    let target = below(Path::new(NEW_ROOT), path);
    make_dir(&target, 0o755)?;
    mount(
        Some(path),
        &target,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )
    .with_context(|| format!("moving '{}' to the new root", path.display()))
}

/// Carries the sources of the user's mounts over. There is nothing to carry where all of them are the guest's own.
pub fn carry_mounts() -> Result<()> {
    let staged = Path::new(STAGED_MOUNTS);
    if !staged.exists() {
        return Ok(());
    }
    bind(
        staged,
        &below(Path::new(NEW_ROOT), Path::new(CARRIED_MOUNTS)),
        false,
    )
}

/// Lets go of them.
pub fn release_mounts() -> Result<()> {
    let carried = Path::new(CARRIED_MOUNTS);
    if carried.exists() {
        umount2(carried, MntFlags::MNT_DETACH).context("letting go of the sources of mounts")?;
        fs::remove_dir(carried).context("letting go of the sources of mounts")?;
    }
    Ok(())
}

/// Makes the new root the root of this mount namespace and lets go of the old one.
pub fn pivot() -> Result<()> {
    chdir(NEW_ROOT).context("entering the new root")?;
    // pivot_root(2): with both arguments the same, the old root ends up stacked below the new one.
    pivot_root(".", ".").context("changing to the new root")?;
    umount2(".", MntFlags::MNT_DETACH).context("letting go of the staging root")?;
    chdir("/").context("entering the new root")
}

/// Uncovers the kernel's own `/proc/meminfo` where libvirt's cannot be used.
///
/// libvirt lays a file of its own over it, which shows the limits of the domain. Newer kernels and libfuse make it
/// unseekable, and procps (`ps`, `free`, `top`) fails on that.
pub fn drop_unseekable_meminfo() {
    let path = Path::new("/proc/meminfo");
    let is_seekable = fs::File::open(path).is_ok_and(|mut file| file.rewind().is_ok());
    if !is_seekable && let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
        log::warn!("uncovering '{}': {error}", path.display());
    }
}

/// Writes one of the host's files.
pub fn write(file: &File) -> Result<()> {
    let doing = || format!("writing '{}'", file.path.display());
    if !file.path.is_absolute() {
        bail!("writing '{}': not an absolute path", file.path.display());
    }
    make_parent(&file.path)?;
    fs::write(&file.path, &file.content).with_context(doing)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode)).with_context(doing)
}

/// Creates a directory and its parents.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("creating '{}'", path.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => make_dir(parent, 0o755),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(
            below(Path::new("/newroot"), Path::new("/etc")),
            Path::new("/newroot/etc")
        );
    }

    #[test]
    fn a_remount_repeats_what_is_forbidden() {
        let both = FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC | FsFlags::ST_RDONLY;
        assert_eq!(restrictions(both), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
        assert_eq!(restrictions(FsFlags::ST_NOSUID), MsFlags::MS_NOSUID);
        assert_eq!(restrictions(FsFlags::empty()), MsFlags::empty());
    }
}
