//! Disks and images of the host: their checks, the features that a guest's kernel needs for them, and the block devices that
//! containers have in their place, since they take no files.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use guest_init::sys::filesystem::{self, FsType};

use crate::config::{Disk, ImageFormat};
use crate::domain::{BlockDevice, BlockKind};
use crate::error::{Error, Result};
use crate::guest::kernel::Feature;
use crate::guest::layout::{Image, Layout};
use crate::sys::image::loopdev::{Extent, LoopDevice};
use crate::sys::image::references as reference;
use crate::sys::image::storage_daemon::{self, RawView};

/// A block device of the host, for as long as this lives or something has it open.
#[derive(Debug)]
pub struct Attached {
    /// The device as a container has it.
    pub device: BlockDevice,
    /// Let go of before what it lies on.
    _device: Option<LoopDevice>,
    _export: Option<RawView>,
}

impl Attached {
    /// Returns a stand-in for a plan that is only shown.
    fn pretended(source: &Path, read_only: bool) -> Self {
        Self {
            device: block(source, read_only),
            _device: None,
            _export: None,
        }
    }
}

/// Attaches block devices of the host to the images of a layout, then to its disks, in the order that a container has them in.
///
/// # Errors
/// Where an image has no such filesystem, names other files, or the host cannot make devices of such images.
pub fn attach(layout: &Layout) -> Result<Vec<Attached>> {
    let images = layout.images.iter().map(attach_image);
    images.chain(layout.disks.iter().map(attach_disk)).collect()
}

/// Returns the same as [`attach`] for a plan that is only shown: nothing is attached.
#[must_use]
pub fn pretend(layout: &Layout) -> Vec<Attached> {
    let images = layout.images.iter();
    let images = images.map(|image| Attached::pretended(&image.source, image.read_only));
    let disks = layout.disks.iter();
    let disks = disks.map(|disk| Attached::pretended(disk.source(), disk.is_read_only()));
    images.chain(disks).collect()
}

/// Returns the kind of a disk; the file must be of the kind that the user named.
pub fn kind(disk: &Disk) -> Result<BlockKind> {
    let source = disk.source();
    let metadata = fs::metadata(source).map_err(Error::io("looking at the disk", source))?;
    let (kind, is_right, wanted) = match disk {
        Disk::File { .. } => (BlockKind::File, metadata.is_file(), "an image file"),
        Disk::Block { .. } => (
            BlockKind::Block,
            metadata.file_type().is_block_device(),
            "a block device",
        ),
    };
    match is_right {
        true => Ok(kind),
        false => Err(Error::refused(format!(
            "the disk '{}' is not {wanted}",
            source.display()
        ))),
    }
}

/// Returns the features that a guest's kernel needs to mount an image.
pub fn features(image: &Image) -> Result<Vec<Feature>> {
    if let Some(filesystem) = image.filesystem {
        return features_of(filesystem, image);
    }
    if image.format != ImageFormat::Raw {
        // What is in it cannot be told from outside.
        return Ok(vec![
            Feature::Ext4,
            Feature::Xfs,
            Feature::Btrfs,
            Feature::Squashfs,
        ]);
    }
    features_of(choose(image, &image.source)?.filesystem, image)
}

fn features_of(filesystem: FsType, image: &Image) -> Result<Vec<Feature>> {
    match filesystem {
        FsType::Ext2 | FsType::Ext3 | FsType::Ext4 => Ok(vec![Feature::Ext4]),
        FsType::Xfs => Ok(vec![Feature::Xfs]),
        FsType::Btrfs => Ok(vec![Feature::Btrfs]),
        FsType::Squashfs => Ok(vec![Feature::Squashfs]),
        FsType::Vfat => Ok(vec![Feature::Vfat]),
        FsType::Iso9660 => Ok(vec![Feature::Iso9660]),
        FsType::Erofs => Err(Error::refused(format!(
            "the image '{}' has an EROFS filesystem, which virtual machines cannot mount yet; use a container",
            image.source.display()
        ))),
    }
}

/// Finds the filesystem of an image whose bytes are at `raw`.
fn choose(image: &Image, raw: &Path) -> Result<filesystem::Chosen> {
    let mut file = File::open(raw).map_err(Error::io("reading the image", &image.source))?;
    filesystem::choose(&mut file, image.partition).map_err(Error::step(format!(
        "looking into the image '{}'",
        image.source.display()
    )))
}

/// Refuses an image that names other files that are not to be opened, before any program opens them.
///
/// # Errors
/// Names the image, the file and the option. Also where the image cannot be read.
pub fn check_image(image: &Image) -> Result<()> {
    check(&image.source, image.format, image.backing)
}

/// Does the same for a disk as [`check_image`].
pub fn check_disk(disk: &Disk) -> Result<()> {
    check(disk.source(), disk.format(), disk.has_backing())
}

fn check(source: &Path, format: ImageFormat, backing: bool) -> Result<()> {
    if backing || format == ImageFormat::Raw {
        return Ok(());
    }
    let found = reference::open(source, true)
        .and_then(|image| reference::find(&image, format.as_str()))
        .map_err(Error::io("reading the image", source))?;
    match found {
        None => Ok(()),
        Some(found) => Err(Error::refused(format!(
            "the image '{}' names another file, {found}, which a sandbox does not get; if you trust the image with all \
             your files, say backing=yes behind it",
            source.display()
        ))),
    }
}

/// Attaches a block device to the filesystem in `image`.
fn attach_image(image: &Image) -> Result<Attached> {
    check_image(image)?;
    let export = export(&image.source, image.format, image.read_only, image.backing)?;
    let raw = raw_view(export.as_ref(), &image.source);
    let chosen = choose(image, &raw)?;
    let extent = Extent {
        start: chosen.partition.map_or(0, |partition| partition.start),
        length: chosen.partition.map_or(0, |partition| partition.size),
    };
    attached(&image.source, &raw, extent, image.read_only, export)
}

/// Attaches a block device to a disk, unless it is one.
fn attach_disk(disk: &Disk) -> Result<Attached> {
    let (source, read_only) = (disk.source(), disk.is_read_only());
    match kind(disk)? {
        BlockKind::Block => Ok(Attached {
            device: block(source, read_only),
            _device: None,
            _export: None,
        }),
        BlockKind::File => {
            check_disk(disk)?;
            let export = export(source, disk.format(), read_only, disk.has_backing())?;
            let raw = raw_view(export.as_ref(), source);
            attached(source, &raw, Extent::default(), read_only, export)
        }
    }
}

fn raw_view(export: Option<&RawView>, source: &Path) -> PathBuf {
    export.map_or_else(|| source.to_owned(), RawView::path)
}

fn export(
    source: &Path,
    format: ImageFormat,
    read_only: bool,
    backing: bool,
) -> Result<Option<RawView>> {
    if format == ImageFormat::Raw {
        return Ok(None);
    }
    let image = storage_daemon::Image {
        path: source,
        format: format.as_str(),
        read_only,
        backing,
    };
    let export = RawView::new(image).map_err(|error| {
        Error::step(format!(
            "opening the {} image '{}' (this takes qemu-storage-daemon, and FUSE in the kernel)",
            format.as_str(),
            source.display()
        ))(error)
    })?;
    Ok(Some(export))
}

fn attached(
    source: &Path,
    raw: &Path,
    extent: Extent,
    read_only: bool,
    export: Option<RawView>,
) -> Result<Attached> {
    let device = LoopDevice::attach(raw, extent, read_only)
        .map_err(Error::io("attaching a loop device to", source))?;
    if let Some(export) = &export {
        export.lift_deadline();
    }
    Ok(Attached {
        device: block(device.path(), read_only),
        _device: Some(device),
        _export: export,
    })
}

/// A block device as a container has it.
fn block(path: &Path, read_only: bool) -> BlockDevice {
    BlockDevice {
        source: path.to_owned(),
        kind: BlockKind::Block,
        format: ImageFormat::Raw,
        backing: false,
        read_only,
        serial: String::new(),
    }
}
