//! Formats of disk images.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::config::as_text;

/// Format of a disk image, in QEMU's words. `img` and `iso` are aliases of `raw`, `vhd` of `vpc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// Plain bytes of the disk.
    Raw,
    /// QEMU's format.
    Qcow2,
    /// QEMU's older format.
    Qcow,
    /// QEMU's enhanced disk.
    Qed,
    /// Format of VMware.
    Vmdk,
    /// Format of VirtualBox.
    Vdi,
    /// Format of Virtual PC, also called VHD.
    Vpc,
    /// Format of the emulator Bochs.
    Bochs,
    /// Compressed loop, read-only.
    Cloop,
    /// Format of Apple, read-only.
    Dmg,
    /// Format of Parallels.
    Parallels,
}

/// Names of the formats; the first of a format is the one that is written.
const NAMES: [(&str, ImageFormat); 14] = [
    ("raw", ImageFormat::Raw),
    ("qcow2", ImageFormat::Qcow2),
    ("qcow", ImageFormat::Qcow),
    ("qed", ImageFormat::Qed),
    ("vmdk", ImageFormat::Vmdk),
    ("vdi", ImageFormat::Vdi),
    ("vpc", ImageFormat::Vpc),
    ("bochs", ImageFormat::Bochs),
    ("cloop", ImageFormat::Cloop),
    ("dmg", ImageFormat::Dmg),
    ("parallels", ImageFormat::Parallels),
    ("img", ImageFormat::Raw),
    ("iso", ImageFormat::Raw),
    ("vhd", ImageFormat::Vpc),
];

/// Error of parsing a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFormatError {
    /// No format that QEMU has had.
    #[error(
        "'{0}' is not a format of disk images: use raw, qcow2, qcow, qed, vmdk, vdi, vpc, bochs, cloop, dmg or parallels"
    )]
    Unknown(String),
    /// A directory that QEMU shows as a disk with FAT.
    #[error("the format '{0}' shows a directory as a disk; mount the directory with host-bind")]
    Directory(String),
    /// A format that QEMU has no more.
    #[error("QEMU 2.2 dropped the format 'cow'; convert the image with an older qemu-img")]
    Dropped,
}

/// Error of `backing=yes` for a format whose images name no other file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an image of the format {0} names no other file; leave out 'backing=yes'")]
pub struct BackingError(ImageFormat);

impl ImageFormat {
    /// Checks that `backing=yes` applies to the format.
    ///
    /// # Errors
    /// If images of the format name no other file.
    pub fn check_backing(self) -> Result<(), BackingError> {
        match self {
            Self::Qcow2 | Self::Qcow | Self::Qed | Self::Vmdk => Ok(()),
            Self::Raw
            | Self::Vdi
            | Self::Vpc
            | Self::Bochs
            | Self::Cloop
            | Self::Dmg
            | Self::Parallels => Err(BackingError(self)),
        }
    }

    /// Returns the format that the extension of a file's name implies, ignoring case; raw if there is
    /// none. The content is never used: whoever can write to a raw image could give it any header.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        path.extension()
            .and_then(|extension| extension.to_ascii_lowercase().to_str()?.parse().ok())
            .unwrap_or(Self::Raw)
    }

    /// Returns the name of the format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Qcow => "qcow",
            Self::Qed => "qed",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
            Self::Bochs => "bochs",
            Self::Cloop => "cloop",
            Self::Dmg => "dmg",
            Self::Parallels => "parallels",
        }
    }

    /// Returns libvirt's name of the format, which is QEMU's with one exception.
    #[must_use]
    pub fn libvirt_name(self) -> &'static str {
        match self {
            Self::Parallels => "ploop",
            Self::Raw
            | Self::Qcow2
            | Self::Qcow
            | Self::Qed
            | Self::Vmdk
            | Self::Vdi
            | Self::Vpc
            | Self::Bochs
            | Self::Cloop
            | Self::Dmg => self.as_str(),
        }
    }

    /// Returns whether QEMU can only read the format.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        match self {
            Self::Bochs | Self::Cloop | Self::Dmg => true,
            Self::Raw
            | Self::Qcow2
            | Self::Qcow
            | Self::Qed
            | Self::Vmdk
            | Self::Vdi
            | Self::Vpc
            | Self::Parallels => false,
        }
    }
}

impl FromStr for ImageFormat {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, format)| *format)
            .ok_or_else(|| match text {
                "dir" | "fat" => ParseFormatError::Directory(text.to_owned()),
                "cow" => ParseFormatError::Dropped,
                _ => ParseFormatError::Unknown(text.to_owned()),
            })
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

as_text!(ImageFormat);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, format) in &NAMES[..11] {
            assert_eq!(format.to_string(), *name);
        }
        assert_eq!("img".parse(), Ok(ImageFormat::Raw));
        assert_eq!("iso".parse(), Ok(ImageFormat::Raw));
        assert_eq!("vhd".parse(), Ok(ImageFormat::Vpc));
        let error = "cow".parse::<ImageFormat>().unwrap_err().to_string();
        assert!(error.contains("qemu-img"), "{error}");
        for text in ["", "RAW", "dir", "qcow3", "raw "] {
            assert!(text.parse::<ImageFormat>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_without_a_known_end_is_raw() {
        for (path, format) in [
            ("/a/disk.qcow2", ImageFormat::Qcow2),
            ("/a/DISK.VHD", ImageFormat::Vpc),
            ("/a/disk.img", ImageFormat::Raw),
            ("/a/disk.iso", ImageFormat::Raw),
            ("/a/disk", ImageFormat::Raw),
            ("/a.qcow2/disk", ImageFormat::Raw),
            ("/a/.qcow2", ImageFormat::Raw),
            ("/a/disk.", ImageFormat::Raw),
        ] {
            assert_eq!(ImageFormat::of(Path::new(path)), format, "{path}");
        }
    }
}
