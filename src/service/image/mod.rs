//! The tree of a sandbox that is in an image: making the image, and reaching what is in it.
//!
//! The image is one plain filesystem. A container mounts it inside; here it is mounted for this process alone and at no path
//! (see [`mounted`](crate::sys::mount::detached)), on the same device, so that both at a time are one filesystem to the kernel. A
//! sandbox can write to its filesystem what it likes: nothing but the kernel reads it, as when any disk of a stranger is mounted.

mod size;

use std::ffi::CStr;
use std::fs;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::config::storage::tree_image::{TreeFilesystem, TreeFormat};
use crate::config::{SandboxConfig, SandboxName, TreeImage};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::sys::copy;
use crate::sys::image::holder::{HeldImage, HolderFiles};
use crate::sys::image::loopdev::LoopDevice;
use crate::sys::image::{image_lock, mkfs, references};
use crate::sys::mount::bind;
use crate::sys::mount::detached::DetachedMount;
use crate::sys::process::command;
use crate::sys::root::Root;

pub(super) use size::{check_size, explained, needed_by};

/// The subcommand that holds an image which is not raw.
pub const HOLD: &str = "hold-image";

/// How long the device of an image may be in use after the sandbox has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// The block device of an image.
#[derive(Debug)]
pub(super) enum Device {
    Raw(LoopDevice),
    /// None only while it is dropped.
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
                let what = (file, image.format.format().as_str());
                let places = HolderFiles { directory: stage };
                let doing = format!("opening the image '{}'", file.display());
                HeldImage::new(&program, HOLD, what, places)
                    .map(|held| Self::Held(Some(held)))
                    .map_err(Error::step(doing))
            }
        }
    }

    /// Its node.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Raw(device) => device.path(),
            Self::Held(Some(held)) => held.path(),
            Self::Held(None) => Path::new(""),
        }
    }
}

impl Device {
    /// Leaves the device to the sandbox that has mounted it.
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

/// The tree of a sandbox, to be read and written on the host.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    /// Dropped in this order.
    image: Option<(DetachedMount, Device)>,
}

impl Tree {
    /// Its top: the private directories are in it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all that is held back to the image.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub(super) fn sync(&self) -> Result<()> {
        match &self.image {
            Some((mounted, _)) => mounted.sync().map_err(Error::step("writing the image")),
            None => Ok(()),
        }
    }
}

/// Reaches the tree of a sandbox, also while it runs.
///
/// # Errors
/// Where it is in an image that cannot be mounted.
pub(super) fn open_tree(config: &SandboxConfig, stage: &Path) -> Result<Tree> {
    open_tree_at(&config.name, &config.path, config.image, stage)
}

/// Reaches the tree of the sandbox `name` at `path`, or in `image` beside that.
///
/// # Errors
/// As [`open_tree`].
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

/// The device of the image of the sandbox `name`.
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

/// The tree that is in a copy of the image of a sandbox.
///
/// # Errors
/// Where it cannot be mounted.
pub(super) fn open_copy(image: TreeImage, copy: &File, stage: &Path) -> Result<Tree> {
    // It has no other name, and is opened by other processes, too.
    let path = format!("/proc/{}/fd/{}", std::process::id(), copy.as_raw_fd());
    let stage = stage.join("copy");
    let device = Device::new(Path::new(&path), image, &stage)?;
    mounted(device, image, Path::new(&path))
}

/// Copies the image of a sandbox that holds still.
///
/// # Errors
/// Where there is no room for it, or it does not hold still.
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

/// A mount for a program of the host to read a directory of the tree, and where on it that is: it is attached nowhere, and no link
/// on it is followed.
///
/// # Errors
/// Where the directory is not there or cannot be reached.
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

/// The block device of the image of a sandbox that is about to start, if its tree is in one that the host's kernel mounts.
///
/// # Errors
/// Where the image is missing, the host cannot make devices of such images, or uses one that another kernel is to mount.
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

/// Makes the image of a new sandbox, with an empty filesystem; nothing where its tree is a directory.
///
/// # Errors
/// Where something is there already, or it cannot be made.
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
    // fsck(8) makes it where it needs it.
    let _ = fs::remove_dir(open_tree(config, stage)?.path().join("lost+found"));
    Ok(())
}

/// Waits until nobody uses the image of a sandbox that has ended.
pub(super) fn await_release(config: &SandboxConfig, stage: &Path) {
    let Some(image) = config.image else {
        return;
    };
    let file = image.file(&config.path);
    if !is_released(image, &file, stage) {
        log::warn!(
            "'{}' is still in use; leave it alone until whoever reads it has ended, such as 'logs --follow'",
            file.display()
        );
    }
}

/// Whether nobody uses an image, or does any more after some patience.
fn is_released(image: TreeImage, file: &Path, stage: &Path) -> bool {
    let begin = Instant::now();
    let is_used = || {
        let is_held = match image.format {
            TreeFormat::Raw => matches!(LoopDevice::find(file), Ok(Some(_))),
            TreeFormat::Qcow2 => HolderFiles { directory: stage }.is_held(),
        };
        is_held || matches!(image_lock::is_locked(file), Ok(true))
    };
    while is_used() {
        if begin.elapsed() > PATIENCE {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
    true
}
/// Refuses an image that names another file. None does when it is made.
fn check_references(image: TreeImage, file: &Path) -> Result<()> {
    let found = references::open(file, true)
        .and_then(|open| references::find(&open, image.format.format().as_str()))
        .map_err(Error::io("reading the image", file))?;
    match found {
        None => Ok(()),
        Some(found) => Err(Error::refused(format!(
            "the image '{}' names another file, {found}, as no image of a sandbox does; restore a snapshot of it, or a backup",
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

/// The filesystem's name in the kernel.
fn kind(image: TreeImage) -> &'static CStr {
    match image.filesystem {
        TreeFilesystem::Ext4 => c"ext4",
        TreeFilesystem::Xfs => c"xfs",
    }
}
