//! Mounts of filesystems that are attached to no path.
//!
//! A detached mount (fsmount(2), Linux 5.2) is a descriptor: it is in no mount namespace, and ends with the
//! last process that has a file of it open, however that process ends.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use nix::libc;

/// DetachedMount filesystem that is unmounted on drop.
#[derive(Debug)]
pub struct DetachedMount {
    top: OwnedFd,
}

// From linux/mount.h.
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;
const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

impl DetachedMount {
    /// Mounts the filesystem `kind` of the block device `device`. Its content is untrusted: programs are
    /// not executed, and device nodes and setuid bits are ignored.
    ///
    /// # Errors
    /// The kernel's error, with its explanation if it gives one.
    pub fn new(device: &Path, kind: &CStr) -> io::Result<Self> {
        Self::with(device, kind, 0)
    }

    /// Mounts the filesystem read-only and without following symlinks (Linux 5.14), for a program of the
    /// host to read.
    pub fn new_read_only(device: &Path, kind: &CStr) -> io::Result<Self> {
        Self::with(device, kind, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSYMFOLLOW)
    }

    fn with(device: &Path, kind: &CStr, attributes: u64) -> io::Result<Self> {
        let source = CString::new(device.as_os_str().as_bytes())?;
        Self::configured(kind, &[(c"source", &source)], attributes)
    }

    /// Mounts the single file that the FUSE server behind `device`, an open `/dev/fuse`, serves. Only the
    /// calling user sees it.
    pub fn fuse_file(device: &File) -> io::Result<Self> {
        let number = |number: u32| CString::new(number.to_string());
        let fd = number(device.as_raw_fd().cast_unsigned())?;
        let user = number(nix::unistd::geteuid().as_raw())?;
        let group = number(nix::unistd::getegid().as_raw())?;
        let options = [
            (c"fd", fd.as_c_str()),
            // A regular file (`S_IFREG`), in octal.
            (c"rootmode", c"100000"),
            (c"user_id", &user),
            (c"group_id", &group),
        ];
        Self::configured(c"fuse", &options, 0)
    }

    fn configured(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> io::Result<Self> {
        // SAFETY: the first argument is a text that ends with NUL.
        let context = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
        let context = descriptor(context)?;
        let configured = options
            .iter()
            .try_for_each(|pair| configure(&context, FSCONFIG_SET_STRING, Some(*pair)))
            .and_then(|()| configure(&context, FSCONFIG_CMD_CREATE, None));
        configured.map_err(|error| explain(&context, error))?;
        let attributes = attributes | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        // SAFETY: the descriptor is open, and the rest are numbers.
        let top = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                context.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                attributes,
            )
        };
        Ok(Self {
            top: descriptor(top).map_err(|error| explain(&context, error))?,
        })
    }

    /// Returns the top directory of the detached mount.
    #[must_use]
    pub fn into_top(self) -> OwnedFd {
        self.top
    }

    /// Returns a path to the top directory, valid in this process.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.top.as_raw_fd()))
    }

    /// Writes everything back to the device (syncfs(2)).
    ///
    /// # Errors
    /// If there is no room, or the device fails.
    pub fn sync(&self) -> io::Result<()> {
        // The descriptor of a mount is O_PATH, which syncfs(2) refuses.
        let top = File::open(self.path())?;
        Ok(nix::unistd::syncfs(&top)?)
    }
}

fn configure(context: &OwnedFd, command: u32, pair: Option<(&CStr, &CStr)>) -> io::Result<()> {
    let (key, value) = pair.map_or((ptr::null(), ptr::null()), |(key, value)| {
        (key.as_ptr(), value.as_ptr())
    });
    // SAFETY: the descriptor is open, and both pointers are null or lead to a text that ends with NUL and
    // outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            0,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(result).unwrap_or(-1);
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a system call has just created the descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Adds the kernel's explanation to an error. The context holds it as messages that begin with their
/// severity.
fn explain(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut reasons = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = nix::unistd::read(context, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        reasons.extend(text.strip_prefix("e ").map(str::to_owned));
        if length == 0 {
            break;
        }
    }
    match reasons.is_empty() {
        true => error,
        false => io::Error::new(error.kind(), format!("{}: {error}", reasons.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::sys::image::loopdev::{LoopDevice, is_attached};

    #[test]
    fn a_filesystem_is_there_as_long_as_its_descriptor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(file.path())
            .status();
        let device = LoopDevice::attach_shared(file.path());
        let (Ok(true), Ok(device)) = (made.map(|status| status.success()), device) else {
            eprintln!(
                "skipped: a_filesystem_is_there_as_long_as_its_descriptor: no mkfs or no loop device"
            );
            return;
        };
        let mounted = match DetachedMount::new(device.path(), c"ext4") {
            Ok(mounted) => mounted,
            Err(error) => {
                eprintln!("skipped: a_filesystem_is_there_as_long_as_its_descriptor: {error}");
                return;
            }
        };
        let node = device.path().to_owned();
        drop(device);
        fs::write(mounted.path().join("x"), "kept").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(node.to_str().unwrap()), "{mounts}");
        drop(mounted);
        assert!(!is_attached(&node));
        let device = LoopDevice::attach_shared(file.path()).unwrap();
        let again = DetachedMount::new(device.path(), c"ext4").unwrap();
        assert_eq!(fs::read_to_string(again.path().join("x")).unwrap(), "kept");
        let error = DetachedMount::new(device.path(), c"xfs").unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
