//! Private trees on the filesystem of an image.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::{Bytes, ImageFormat};

/// Image with the private tree of a sandbox: one filesystem on the whole of it, with the private directories
/// at its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TreeImage {
    /// Size of the filesystem.
    pub size: Bytes,
    /// Format of the image file.
    #[serde(default)]
    pub format: TreeFormat,
    /// Type of the filesystem.
    #[serde(default)]
    pub filesystem: TreeFilesystem,
}

/// Format of an image with a private tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TreeFormat {
    /// The bytes of the disk, with holes
    #[default]
    Raw,
    /// QEMU's own
    Qcow2,
}

/// Filesystem on an image with a private tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TreeFilesystem {
    /// The usual one
    #[default]
    Ext4,
    /// For 300M and more
    Xfs,
}

impl TreeFormat {
    /// Returns the general image format.
    #[must_use]
    pub const fn format(self) -> ImageFormat {
        match self {
            Self::Raw => ImageFormat::Raw,
            Self::Qcow2 => ImageFormat::Qcow2,
        }
    }
}

impl TreeFilesystem {
    /// Returns its name in the kernel and of its `mkfs`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl TreeImage {
    /// Returns the image file of the tree at `path`: beside it, under the same name.
    #[must_use]
    pub fn file(&self, path: &Path) -> PathBuf {
        let mut file = path.as_os_str().to_owned();
        file.push(".");
        file.push(self.format.format().as_str());
        file.into()
    }
}
