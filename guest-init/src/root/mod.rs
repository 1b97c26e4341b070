//! Assembling the root filesystem of the sandbox and changing over to it.

pub mod boot_id;
mod devices;
mod include;
mod isolated;
mod kernel;
mod mapped;
mod mounts;
mod overlay;
mod target;
mod tree;

use std::fs;
use std::io::Seek;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use crate::config::{File, IdMap, Platform, Source};
use crate::{NEW_ROOT, STAGED_MOUNTS};

pub use devices::{allow as allow_device, give as give_devices};
pub use include::include;
pub use kernel::mask as mask_kernel;
pub use mounts::{add, bind, carry_over, own_file, own_sys, share_mounts};
pub use tree::new_root;

/// The path of `inside` below `root`.
#[must_use]
pub fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Where the steps work: which directory is the root of the sandbox, and how the staging root is reached.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    /// The staging root, also where it is not the root any more.
    stage: Option<OwnedFd>,
    /// Where what is written beside the root goes, once there is a new root.
    scratch: Option<overlay::Scratch>,
    /// What shows the owners of files as the sandbox's.
    mapping: Option<Mapping>,
}

/// A user namespace and what it maps.
#[derive(Debug)]
pub struct Mapping {
    /// The namespace.
    pub namespace: fs::File,
    /// Its ids.
    pub ids: IdMap,
}

impl Place {
    /// The root is being assembled in the staging root `stage`, which is `/` but in a test.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn assembling(stage: &Path) -> Result<Self> {
        Ok(Self {
            root: below(stage, Path::new(NEW_ROOT)),
            stage: Some(open_directory(stage)?),
            scratch: None,
            mapping: None,
        })
    }

    /// Shows owners as `mapping` has them in what is mounted and copied from now on.
    #[must_use]
    pub fn with(self, mapping: Mapping) -> Self {
        Self {
            mapping: Some(mapping),
            ..self
        }
    }

    /// Where the root of the sandbox is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn staged(&self, path: &Path) -> Result<PathBuf> {
        match &self.stage {
            // A path through a directory that is held open leads there whatever the root is by now.
            Some(stage) => Ok(below(&held(stage), path)),
            None => bail!("looking for '{}': the staging root is gone", path.display()),
        }
    }

    fn resolve(&self, source: &Source) -> Result<PathBuf> {
        match source {
            Source::Sandbox(path) => target::locate(&self.root, path, target::Last::Followed),
            Source::Stage(path) => {
                self.refuse_links(path)?;
                self.staged(path)
            }
        }
    }

    /// Fails where a link is on the way to, or at, a place of the staging root: a tree that somebody else has made could lead out of
    /// itself. Nobody changes the top of one meanwhile. Of a file that the user has mounted, the directory may have links.
    fn refuse_links(&self, path: &Path) -> Result<()> {
        if path.starts_with(STAGED_MOUNTS) {
            return Ok(());
        }
        let inside = path.strip_prefix("/").unwrap_or(path);
        for above in inside.ancestors().filter(|above| above.parent().is_some()) {
            let is_link = fs::symlink_metadata(self.staged(above)?)
                .with_context(|| format!("its source '/{}'", above.display()))?
                .is_symlink();
            if is_link {
                bail!("its source '/{}' is a symbolic link", above.display());
            }
        }
        Ok(())
    }

    fn ids(&self) -> Option<IdMap> {
        self.mapping.as_ref().map(|mapping| mapping.ids)
    }

    fn scratch(&self) -> Result<&overlay::Scratch> {
        self.scratch.as_ref().context("there is no new root yet")
    }
}

/// The path of a file that is held open. It leads there from any root (`proc_pid_fd(5)`).
fn held(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("opening '{}'", path.display()))
}

/// Makes the new root what paths begin at, so that links in it lead where they should. The staging root stays mounted
/// above it.
///
/// # Errors
/// Where the kernel refuses.
pub fn enter(place: Place) -> Result<Place> {
    chroot(&place.root).context("entering the new root")?;
    chdir("/").context("entering the new root")?;
    Ok(Place {
        root: "/".into(),
        ..place
    })
}

/// Makes the new root the root of this mount namespace and lets go of the old one.
///
/// # Errors
/// Where the kernel refuses.
pub fn pivot(place: Place, platform: Platform) -> Result<Place> {
    if let Some(stage) = &place.stage {
        fchdir(stage).context("returning to the staging root")?;
        chroot(".").context("returning to the staging root")?;
    }
    chdir(NEW_ROOT).context("entering the new root")?;
    match platform {
        Platform::Container => {
            // pivot_root(2): with both arguments the same, the old root ends up stacked below the new one.
            pivot_root(".", ".").context("changing to the new root")?;
            umount2(".", MntFlags::MNT_DETACH).context("letting go of the staging root")?;
        }
        // pivot_root(2): the root of an initramfs can neither be moved nor unmounted, only covered.
        Platform::Machine => {
            let none = None::<&str>;
            mount(Some("."), "/", none, MsFlags::MS_MOVE, none)
                .context("changing to the new root")?;
            chroot(".").context("changing to the new root")?;
        }
    }
    chdir("/").context("entering the new root")?;
    Ok(Place {
        root: "/".into(),
        stage: None,
        scratch: None,
        ..place
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
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &File) -> Result<()> {
    let doing = || format!("writing '{}'", file.path.display());
    if !file.path.is_absolute() {
        bail!("writing '{}': not an absolute path", file.path.display());
    }
    if let Some(parent) = file.path.parent() {
        make_dir(parent, 0o755)?;
    }
    fs::write(&file.path, &file.content).with_context(doing)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode)).with_context(doing)
}

/// Creates a directory and its parents.
///
/// # Errors
/// If it is not there afterwards.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("creating '{}'", path.display()))
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
}
