//! Images of trees: creation, and access to the tree inside.
//!
//! An image is one plain filesystem. A container mounts it inside; the host mounts it for one process and at no path
//! (see [`detached`](crate::sys::mount::detached)), on the same device, so that both are one filesystem to the kernel. A
//! sandbox can write anything to its filesystem: only the kernel reads it, as with any foreign disk.

mod size;

use std::ffi::CStr;
use std::fs;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::sys::poll;

use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::{SandboxConfig, SandboxName, TreeImage};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::sys::copy;
use crate::sys::image::holder::{HeldImage, HolderCommand, HolderFiles};
use crate::sys::image::loopdev::LoopDevice;
use crate::sys::image::{image_lock, mkfs, references};
use crate::sys::mount::bind;
use crate::sys::mount::detached::DetachedMount;
use crate::sys::process::command;
use crate::sys::root::Root;

pub(super) use size::{check_size, explained, needed_by};

/// Subcommand that keeps an image open that is not raw.
pub const HOLD: &str = "hold-image";

/// Time that the device of an image may stay in use after the end of the sandbox.
const PATIENCE: Duration = Duration::from_secs(5);

/// Block device of an image.
#[derive(Debug)]
pub(super) enum Device {
    Raw(LoopDevice),
    /// `None` only during the drop.
    Held(Option<HeldImage>),
}

impl Device {
    fn new(file: &Path, image: TreeImage, stage: &Path) -> Result<Self> {
        match image.format {
            TreeFormat::Raw => LoopDevice::attach_shared(file)
                .map(Self::Raw)
                .map_err(Error::io("attaching a loop device to", file)),
            TreeFormat::Qcow2 => {
                let program =
                    command::current_exe().map_err(Error::step("finding this program"))?;
                let command = HolderCommand {
                    program: &program,
                    subcommand: HOLD,
                    image: file,
                    format: image.format.format().as_str(),
                    files: HolderFiles { directory: stage },
                };
                HeldImage::open(&command)
                    .map(|held| Self::Held(Some(held)))
                    .map_err(Error::io("opening the image", file))
            }
        }
    }

    /// Returns its device node.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Raw(device) => device.path(),
            Self::Held(Some(held)) => held.path(),
            Self::Held(None) => Path::new(""),
        }
    }
}

impl Device {
    /// Leaves the device to the sandbox, which has mounted it.
    pub(super) fn leave(mut self) {
        if let Self::Held(held) = &mut self {
            drop(held.take());
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Self::Held(held) = self
            && let Some(held) = held.take()
        {
            held.release();
        }
    }
}

/// Open tree of a sandbox, for reading and writing on the host.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    /// Mount and device, dropped in this order.
    image: Option<(DetachedMount, Device)>,
}

impl Tree {
    /// Returns its top, which contains the private directories.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the filesystem to the image.
    ///
    /// # Errors
    /// There is no space.
    pub(super) fn sync(&self) -> Result<()> {
        match &self.image {
            Some((mounted, _)) => mounted.sync().map_err(Error::step("writing the image")),
            None => Ok(()),
        }
    }
}

/// Opens the tree of a sandbox, also while it runs.
///
/// # Errors
/// The tree is in an image that cannot be mounted.
pub(super) fn open_tree(config: &SandboxConfig, stage: &Path) -> Result<Tree> {
    open_tree_at(&config.name, &config.path, config.image, stage)
}

/// Opens the tree of the sandbox `name` at `path`, or in `image` beside that.
///
/// # Errors
/// Errors of [`open_tree`].
pub(super) fn open_tree_at(
    name: &SandboxName,
    path: &Path,
    image: Option<TreeImage>,
    stage: &Path,
) -> Result<Tree> {
    let Some(image) = image else {
        return Ok(Tree {
            path: path.to_owned(),
            image: None,
        });
    };
    let device = device_of(name, image, &image.file(path), stage)?;
    mounted(device, image, &image.file(path))
}

/// Opens the device of the image of the sandbox `name`.
fn device_of(name: &SandboxName, image: TreeImage, file: &Path, stage: &Path) -> Result<Device> {
    Device::new(file, image, stage).map_err(|error| {
        match image_lock::is_locked(file) {
            Ok(true) => Error::running(format!(
                "'{name}' runs and has its image '{}' to itself; stop it first with 'virt-sandbox-service stop {name}'",
                file.display()
            )),
            Ok(false) | Err(_) => error,
        }
    })
}

/// Opens the tree in a copy of a sandbox's image.
///
/// # Errors
/// The copy cannot be mounted.
pub(super) fn open_copy(image: TreeImage, copy: &File, stage: &Path) -> Result<Tree> {
    // The unnamed file is opened by other processes too.
    let path = format!("/proc/{}/fd/{}", std::process::id(), copy.as_raw_fd());
    let stage = stage.join("copy");
    let device = Device::new(Path::new(&path), image, &stage)?;
    mounted(device, image, Path::new(&path))
}

/// Copies the image of a frozen or stopped sandbox.
///
/// # Errors
/// There is no space, or the image changes during the copy.
pub(super) fn copy_to(
    config: &SandboxConfig,
    image: TreeImage,
    to: &File,
    interrupted: &dyn Fn() -> bool,
) -> Result<()> {
    let path = image.file(&config.path);
    let copying = || Error::io("copying", &path);
    let from = File::open(&path).map_err(copying())?;
    copy::content(&from, to, interrupted).map_err(copying())
}

/// Returns a detached mount for a program of the host to read a directory of the tree, and the path on it. No link
/// on the mount is followed.
///
/// # Errors
/// The directory is missing or cannot be reached.
pub(super) fn plain_view(
    config: &SandboxConfig,
    inside: &Path,
    stage: &Path,
) -> Result<(OwnedFd, PathBuf)> {
    let Some(image) = config.image else {
        let directory = Root::new(&config.path)?.open_plain(inside)?;
        let doing = format!("opening '{}' without its links", inside.display());
        let view = bind::clone_read_only(directory).map_err(Error::step(doing))?;
        return Ok((view.into(), PathBuf::from("/")));
    };
    let file = image.file(&config.path);
    let device = device_of(&config.name, image, &file, stage)?;
    let mounted = DetachedMount::new_read_only(device.path(), kind(image))
        .map_err(Error::io("mounting", &file))?;
    Root::new(&mounted.path())?.open_plain(inside)?;
    device.leave();
    Ok((mounted.into_top(), inside.to_owned()))
}

/// Opens the block device for a start of the sandbox, if its tree is in an image that the host's kernel mounts.
///
/// # Errors
/// The image is missing, the host cannot make devices of such images, or already uses an image that another kernel shall mount.
pub(super) fn device(config: &SandboxConfig, stage: &Path) -> Result<Option<Device>> {
    let Some(image) = config.image else {
        return Ok(None);
    };
    let file = image.file(&config.path);
    if !Driver::of_service(&config.connection)?.has_own_kernel() {
        return Device::new(&file, image, stage).map(Some);
    }
    check_references(image, &file)?;
    match is_released(image, &file, stage) {
        true => Ok(None),
        false => Err(Error::busy(format!(
            "'{}' is in use on the host, which '{}' cannot share it with; end what reads it, such as 'logs --follow'",
            file.display(),
            config.name
        ))),
    }
}

/// Creates the image of a new sandbox with an empty filesystem; does nothing if its tree is a directory.
///
/// # Errors
/// The image exists, or cannot be created.
pub(super) fn make(config: &SandboxConfig, stage: &Path) -> Result<()> {
    let Some(image) = config.image else {
        return Ok(());
    };
    let file = image.file(&config.path);
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file);
    made.map_err(Error::io("creating", &file))?;
    let format = image.format.format().as_str();
    mkfs::create_image(&file, format, image.size.get()).map_err(making(&file))?;
    let device = Device::new(&file, image, stage)?;
    let uuid = config.uuid.to_string();
    mkfs::make_filesystem(device.path(), image.filesystem.as_str(), &uuid)
        .map_err(making(&file))?;
    drop(device);
    // fsck(8) creates it when needed.
    let _ = fs::remove_dir(open_tree(config, stage)?.path().join("lost+found"));
    Ok(())
}

/// Waits until the image of an ended sandbox is unused.
pub(super) fn await_release(config: &SandboxConfig, stage: &Path) {
    let Some(image) = config.image else {
        return;
    };
    let file = image.file(&config.path);
    if !is_released(image, &file, stage) {
        log::warn!(
            "'{}' is still in use, such as by 'logs --follow'; do not move or change it until that ends",
            file.display()
        );
    }
}

/// Returns true once an image is unused, waiting for a limited time.
fn is_released(image: TreeImage, file: &Path, stage: &Path) -> bool {
    let is_used = || {
        let is_held = match image.format {
            TreeFormat::Raw => matches!(LoopDevice::find(file), Ok(Some(_))),
            TreeFormat::Qcow2 => HolderFiles { directory: stage }.is_held(),
        };
        is_held || matches!(image_lock::is_locked(file), Ok(true))
    };
    poll::until(PATIENCE, Duration::from_millis(20), || !is_used())
}

/// Refuses an image that refers to another file; images that this program creates never do.
fn check_references(image: TreeImage, file: &Path) -> Result<()> {
    let found = references::open(file, true)
        .and_then(|open| references::find(&open, image.format.format().as_str()))
        .map_err(Error::io("reading the image", file))?;
    match found {
        None => Ok(()),
        Some(found) => Err(Error::refused(format!(
            "the image '{}' names another file, {found}, which an image of a sandbox never does; restore a snapshot of it, or a backup",
            file.display()
        ))),
    }
}

fn mounted(device: Device, image: TreeImage, file: &Path) -> Result<Tree> {
    let mounted =
        DetachedMount::new(device.path(), kind(image)).map_err(Error::io("mounting", file))?;
    Ok(Tree {
        path: mounted.path(),
        image: Some((mounted, device)),
    })
}

fn making(file: &Path) -> impl FnOnce(std::io::Error) -> Error {
    Error::step(format!("making the image '{}'", file.display()))
}

/// Returns the kernel's name of the filesystem.
fn kind(image: TreeImage) -> &'static CStr {
    match image.filesystem {
        TreeFilesystem::Ext4 => c"ext4",
        TreeFilesystem::Xfs => c"xfs",
    }
}
