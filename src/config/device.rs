//! Devices of the host that are visible in a container.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::config::as_text;

/// Devices that the kernel isolates by namespace and that any user may open: a unit with `DeviceAllow=` for
/// one of them gets it automatically.
pub const HARMLESS: [&str; 2] = ["/dev/net/tun", "/dev/fuse"];

/// Path of a character device below `/dev`, the same on the host and inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(PathBuf);

/// Error of parsing a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the path of a device of the host, such as /dev/net/tun")]
pub struct ParseDeviceError(String);

impl Device {
    /// Returns the path, on the host and inside.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns whether the device is one of [`HARMLESS`].
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        HARMLESS.iter().any(|path| self.0 == Path::new(path))
    }
}

impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path: PathBuf = Path::new(text).components().collect();
        let is_plain = (path.components())
            .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
        let is_printable = !text.bytes().any(|byte| byte.is_ascii_control());
        match path.strip_prefix("/dev") {
            Ok(below) if is_plain && is_printable && !below.as_os_str().as_bytes().is_empty() => {
                Ok(Self(path))
            }
            Ok(_) | Err(_) => Err(ParseDeviceError(text.escape_debug().to_string())),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

as_text!(Device);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_below_dev() {
        let device: Device = "/dev//net/tun".parse().unwrap();
        assert_eq!(device.to_string(), "/dev/net/tun");
        assert!(device.is_harmless());
        assert!(!"/dev/kvm".parse::<Device>().unwrap().is_harmless());
        for bad in [
            "",
            "tun",
            "/dev",
            "/dev/",
            "/dev/../etc/passwd",
            "/etc/x",
            "/dev/a\nb",
        ] {
            assert!(bad.parse::<Device>().is_err(), "{bad:?}");
        }
    }
}
