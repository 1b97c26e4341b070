//! Assembling the root filesystem of the sandbox and changing over to it.

use std::fs;
use std::io::Seek;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use crate::NEW_ROOT;
use crate::config::{Access, File, Mount, Root, Source};
use crate::mountinfo::mount_points;

/// Size of the root's own tmpfs in bytes. It holds mount points only; a writable root is needed
/// by the hardening of systemd units, which make mount points of their own there.
const ROOT_SIZE: u64 = 64 << 20;

/// The path of `inside` below `root`.
pub fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Where the steps work: which directory is the root of the sandbox, and how the staging root is reached.
#[derive(Debug)]
pub struct Place {
    root: &'static Path,
    /// The staging root, also where it is not the root any more.
    stage: Option<OwnedFd>,
}

impl Place {
    /// The root is being assembled in the staging root.
    pub fn assembling() -> Result<Self> {
        Ok(Self {
            root: Path::new(NEW_ROOT),
            stage: Some(open_directory(Path::new("/"))?),
        })
    }

    fn resolve(&self, source: &Source) -> Result<PathBuf> {
        match (source, &self.stage) {
            (Source::Sandbox(path), _) => Ok(below(self.root, path)),
            // A path through a directory that is held open leads there whatever the root is by now.
            (Source::Stage(path), Some(stage)) => {
                let stage = format!("/proc/self/fd/{}", stage.as_raw_fd());
                Ok(below(Path::new(&stage), path))
            }
            (Source::Stage(path), None) => {
                bail!("looking for '{}': the staging root is gone", path.display())
            }
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("opening '{}'", path.display()))
}

/// Makes the new root what paths begin at, so that links in it lead where they should. The staging root stays mounted
/// above it.
pub fn enter(place: Place) -> Result<Place> {
    chroot(NEW_ROOT).context("entering the new root")?;
    chdir("/").context("entering the new root")?;
    Ok(Place {
        root: Path::new("/"),
        stage: place.stage,
    })
}

/// Mounts what the root begins as.
pub fn new_root(root: &Root) -> Result<()> {
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
    match root {
        Root::Empty => tmpfs(Path::new(NEW_ROOT), 0o755, Some(ROOT_SIZE)),
        Root::Tree { source, access } => {
            bind(source, Path::new(NEW_ROOT), *access == Access::ReadOnly)
        }
    }
}

/// Adds one mount to the tree below `root`.
pub fn add(place: &Place, wanted: &Mount) -> Result<()> {
    let root = place.root;
    match wanted {
        Mount::Bind {
            source,
            target,
            read_only,
        } => bind(&place.resolve(source)?, &below(root, target), *read_only),
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

/// Makes the new root the root of this mount namespace and lets go of the old one.
pub fn pivot(place: Place) -> Result<Place> {
    if let Some(stage) = &place.stage {
        fchdir(stage).context("returning to the staging root")?;
        chroot(".").context("returning to the staging root")?;
    }
    chdir(NEW_ROOT).context("entering the new root")?;
    // pivot_root(2): with both arguments the same, the old root ends up stacked below the new one.
    pivot_root(".", ".").context("changing to the new root")?;
    umount2(".", MntFlags::MNT_DETACH).context("letting go of the staging root")?;
    chdir("/").context("entering the new root")?;
    Ok(Place {
        root: Path::new("/"),
        stage: None,
    })
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
