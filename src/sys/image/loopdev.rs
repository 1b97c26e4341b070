//! Block devices over files (`loop(4)`), which end with their last user.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::sys::image::image_lock;

/// Loop device. It exists as long as this value, or as something has it open, for example a mount.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// Keeps the device.
    _device: File,
}

/// Part of a file that a device shows, in bytes. A length of 0 extends to the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub length: u64,
}

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const LOOP_GET_STATUS64: u16 = 0x4c05;
const LOOP_CTL_GET_FREE: u16 = 0x4c82;
const LOOP_CONFIGURE: u16 = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Attempts to get a free device: other processes may take it first.
const ATTEMPTS: u32 = 64;
/// Time that another process may take to set up a device for the same file.
const PATIENCE: Duration = Duration::from_millis(500);

nix::ioctl_none_bad!(
    /// Returns the number of a free device.
    get_free,
    LOOP_CTL_GET_FREE
);
nix::ioctl_write_ptr_bad!(
    /// Attaches a file (Linux 5.8).
    configure,
    LOOP_CONFIGURE,
    Config
);
nix::ioctl_read_bad!(
    /// Reads which file a device shows.
    get_status,
    LOOP_GET_STATUS64,
    Info
);

impl LoopDevice {
    /// Attaches `extent` of the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be opened, or the host has no loop devices.
    pub fn attach(path: &Path, extent: Extent, read_only: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        Self::over(&file, extent, read_only)
    }

    /// Attaches an open file. The device keeps the open file description, and so the locks on it.
    fn over(file: &File, extent: Extent, read_only: bool) -> io::Result<Self> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the descriptor is open, and the call has no argument.
            let number = unsafe { get_free(control.as_raw_fd()) }?;
            let device_path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new()
                .read(true)
                .write(!read_only)
                .open(&device_path)?;
            let config = config(file, extent, read_only);
            // SAFETY: the descriptor is open, and `config` has the layout that the kernel reads.
            match unsafe { configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => {
                    return Ok(Self {
                        path: device_path,
                        _device: device,
                    });
                }
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EBUSY.into())
    }

    /// Returns a writable device for the whole file at `path`: an existing one, or a new one. Two devices
    /// of one file would not see each other's writes. The file is [locked](image_lock) as long as the
    /// device exists.
    ///
    /// # Errors
    /// [`ErrorKind::ResourceBusy`](io::ErrorKind::ResourceBusy) if a virtual machine has the file.
    pub fn attach_shared(path: &Path) -> io::Result<Self> {
        let begin = Instant::now();
        loop {
            if let Some(device) = Self::find(path)? {
                return Ok(device);
            }
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            match image_lock::acquire(&file) {
                Ok(()) => return Self::over(&file, Extent::default(), false),
                // Another process may be creating the device, or has just released one.
                Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                Err(_) => sleep(PATIENCE / 20),
            }
        }
    }

    /// Returns the device that shows the file at `path`, if there is one.
    pub fn find(path: &Path) -> io::Result<Option<Self>> {
        let file = fs::metadata(path)?;
        let is_it = |device: &File| {
            // SAFETY: all zeros are a valid `Info`, which has only numbers.
            let mut info: Info = unsafe { std::mem::zeroed() };
            // SAFETY: the descriptor is open, and `info` has the layout that the kernel writes.
            let status = unsafe { get_status(device.as_raw_fd(), &raw mut info) };
            status.is_ok() && info.inode == file.ino() && decode_device(info.device) == file.dev()
        };
        for entry in fs::read_dir("/sys/block")?.flatten() {
            if !entry.path().join("loop/backing_file").exists() {
                continue;
            }
            let node = Path::new("/dev").join(entry.file_name());
            // A device that disappears meanwhile does not count.
            let opened = OpenOptions::new().read(true).write(true).open(&node);
            if let Ok(device) = opened
                && is_it(&device)
            {
                return Ok(Some(Self {
                    path: node,
                    _device: device,
                }));
            }
        }
        Ok(None)
    }

    /// Opens a device that another process created.
    ///
    /// # Errors
    /// If it cannot be opened, or shows no file any more.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open(path)?;
        if !is_attached(path) {
            return Err(Errno::ENXIO.into());
        }
        Ok(Self {
            path: path.to_owned(),
            _device: device,
        })
    }

    /// Returns the path of the device node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns whether the device at `node` shows a file: somebody has it open, or it is mounted.
#[must_use]
pub fn is_attached(node: &Path) -> bool {
    let name = node.file_name().unwrap_or_default();
    let directory = Path::new("/sys/block").join(name);
    directory.join("loop/backing_file").exists()
}

/// Decodes a device number of the kernel's `huge_encode_dev()` to that of stat(2).
fn decode_device(device: u64) -> u64 {
    let (low, high) = (device & 0xffff_ffff, device >> 32);
    let major = (low >> 8) & 0xfff;
    let minor = (low & 0xff) | ((low >> 12) & 0xfff00) | (high << 20);
    nix::sys::stat::makedev(major, minor)
}

fn config(file: &File, extent: Extent, read_only: bool) -> Config {
    let read_only = if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    Config {
        fd: file.as_raw_fd().cast_unsigned(),
        // 0 lets the kernel choose.
        block_size: 0,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: extent.start,
            size_limit: extent.length,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_AUTOCLEAR | read_only,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_structures_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }

    #[test]
    fn a_file_has_one_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let first = match LoopDevice::attach_shared(file.path()) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: a_file_has_one_device: {error}");
                return;
            }
        };
        let second = LoopDevice::attach_shared(file.path()).unwrap();
        assert_eq!(first.path(), second.path());
        let path = first.path().to_owned();
        drop(first);
        assert!(is_attached(&path) && LoopDevice::open(&path).is_ok());
        assert!(image_lock::is_locked(file.path()).unwrap());
        drop(second);
        assert!(!image_lock::is_locked(file.path()).unwrap());
        assert!(LoopDevice::find(file.path()).unwrap().is_none());
    }

    #[test]
    fn a_part_of_a_file_becomes_a_device() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for byte in 0..8_u8 {
            io::Write::write_all(&mut file, &[byte; 4096]).unwrap();
        }
        let extent = Extent {
            start: 8192,
            length: 4096,
        };
        let device = match LoopDevice::attach(file.path(), extent, true) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: a_part_of_a_file_becomes_a_device: {error}");
                return;
            }
        };
        let mut content = Vec::new();
        let mut node = File::open(device.path()).unwrap();
        node.read_to_end(&mut content).unwrap();
        assert_eq!(content, [2; 4096]);
    }
}
