//! Block devices, and the mounts of shares and images in the staging root.

use std::fs::{self, File};
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::config::{BlockDevice, Disk, Staged, Transport};
use crate::root::make_dir;
use crate::sys::filesystem::{Partition, choose};
use crate::sys::poll;

/// Time for a device of the host to appear.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Directory of links to disks, by their tags.
const BY_TAG: &str = "/dev/disk/by-tag";

/// Bytes of a serial number in virtio (`VIRTIO_BLK_ID_BYTES`).
const MAX_SERIAL: usize = 20;

/// Polls until `look` finds a device, or until the time is up.
pub fn wait_for<T>(look: impl FnMut() -> Option<T>) -> Option<T> {
    poll::find(DEVICE_TIMEOUT, Duration::from_millis(5), look)
}

fn node(device: &BlockDevice) -> Result<PathBuf> {
    match device {
        BlockDevice::Node(path) => Ok(path.clone()),
        BlockDevice::Serial(serial) => wait_for(|| by_serial(serial))
            .with_context(|| format!("looking for the disk '{serial}': it does not appear")),
    }
}

fn by_serial(serial: &str) -> Option<PathBuf> {
    let serial = serial.as_bytes();
    let wanted = &serial[..serial.len().min(MAX_SERIAL)];
    let disks = fs::read_dir("/sys/block").ok()?;
    disks.flatten().find_map(|disk| {
        let found = fs::read(disk.path().join("serial")).ok()?;
        let is_it = found.trim_ascii_end() == wanted;
        is_it.then(|| Path::new("/dev").join(disk.file_name()))
    })
}

/// Returns the node of a partition, which the kernel names after the disk.
fn partition_node(disk: &Path, partition: Partition) -> Result<PathBuf> {
    let look = || {
        let directory = Path::new("/sys/class/block").join(disk.file_name()?);
        fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
            let number = fs::read_to_string(entry.path().join("partition")).ok()?;
            let is_it = number.trim_end().parse() == Ok(partition.number);
            is_it.then(|| Path::new("/dev").join(entry.file_name()))
        })
    };
    let number = partition.number;
    wait_for(look)
        .with_context(|| format!("'{}': the kernel has no partition {number}", disk.display()))
}

/// Mounts a share or an image in the staging root.
pub fn stage(staged: &Staged) -> Result<()> {
    match staged {
        Staged::Share {
            transport,
            tag,
            path,
            read_only,
        } => {
            make_dir(path, 0o755)?;
            share(*transport, tag, path, *read_only)
                .with_context(|| format!("mounting the share '{tag}' on '{}'", path.display()))
        }
        Staged::Image {
            device,
            partition,
            path,
            read_only,
        } => {
            make_dir(path, 0o755)?;
            let node = node(device)?;
            image(&node, *partition, path, *read_only)
                .with_context(|| format!("mounting the image '{}'", node.display()))?;
            if let BlockDevice::Node(node) = device {
                // Root of a container could write to the device below the filesystem. To create the node again takes CAP_MKNOD, which
                // libvirt gives to no container.
                fs::remove_file(node).with_context(|| format!("removing '{}'", node.display()))?;
            }
            Ok(())
        }
    }
}

fn access(read_only: bool) -> MsFlags {
    match read_only {
        true => MsFlags::MS_RDONLY | MsFlags::MS_NODEV,
        false => MsFlags::MS_NODEV,
    }
}

fn share(transport: Transport, tag: &str, path: &Path, read_only: bool) -> Result<()> {
    let (kind, options) = match transport {
        // msize is the most that fits the ring: 128 descriptors, three of them in use. A read-only share may be cached without
        // bounds. `cache=mmap` caches pages only while a file is open, which mapping a file needs (the kernel's
        // Documentation/filesystems/9p.rst).
        Transport::Plan9 => (
            "9p",
            match read_only {
                true => "trans=virtio,version=9p2000.L,msize=512000,cache=loose",
                false => "trans=virtio,version=9p2000.L,msize=512000,cache=mmap",
            },
        ),
        Transport::Virtiofs => ("virtiofs", ""),
    };
    mount(
        Some(tag),
        path,
        Some(kind),
        access(read_only),
        Some(options),
    )
    .map_err(|error| explain(error, kind))
}

fn image(disk: &Path, partition: Option<u32>, path: &Path, read_only: bool) -> Result<()> {
    let mut device = File::open(disk).context("opening it")?;
    let chosen = choose(&mut device, partition)?;
    drop(device);
    let node = match chosen.partition {
        Some(partition) => partition_node(disk, partition)?,
        None => disk.to_owned(),
    };
    let kind = chosen.filesystem.driver();
    let attempt =
        |options: Option<&str>| mount(Some(&node), path, Some(kind), access(read_only), options);
    match (attempt(None), chosen.filesystem.without_journal()) {
        // A filesystem that was not unmounted cleanly: its journal cannot be replayed on a read-only device.
        (Err(Errno::EROFS), Some(option)) if read_only => attempt(Some(option)),
        (outcome, _) => outcome,
    }
    .map_err(|error| explain(error, kind))
}

/// Names the filesystem in an error of mount(2), which returns ENODEV if the kernel lacks it.
fn explain(error: Errno, kind: &str) -> anyhow::Error {
    if error == Errno::ENODEV {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        anyhow::anyhow!("the kernel {} has no {kind}", release.trim_end())
    } else {
        error.into()
    }
}

/// Links disks by their tags and makes `owner` their owner.
pub fn link_disks(disks: &[Disk], owner: Option<u32>) -> Result<()> {
    make_dir(Path::new(BY_TAG), 0o755)?;
    for Disk { tag, device } in disks {
        let doing = || format!("linking the disk '{tag}'");
        if tag.contains('/') {
            bail!("linking the disk '{tag}': not a name");
        }
        let node = node(device).with_context(doing)?;
        chown(&node, owner, None).with_context(doing)?;
        symlink(&node, Path::new(BY_TAG).join(tag)).with_context(doing)?;
    }
    Ok(())
}
