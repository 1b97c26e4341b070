//! Report of a copy.

use std::ffi::OsString;
use std::path::PathBuf;

/// Result for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// Regular file.
    File {
        /// Size in bytes, holes included.
        size: u64,
    },
    /// Hard link to a file that was copied before.
    HardLink,
    /// Symlink.
    Symlink,
    /// Directory, without its entries.
    Directory,
    /// Fifo, created anew.
    Fifo,
    /// Nothing was copied.
    Skipped(Omission),
}

/// Object that was not copied. Prints as a phrase: "'/run/x' is a socket".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path inside the source root.
    pub path: PathBuf,
    /// Missing part.
    pub what: Omission,
}

/// Reason why an object, or a part of it, was not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Omission {
    /// A socket: it has a meaning only for the process that bound it.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// The object vanished before it was copied.
    Vanished,
    /// An extended attribute that the destination's filesystem does not support; the rest was copied.
    Attribute(OsString),
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}' ", crate::error::abbreviate(&self.path))?;
        match &self.what {
            Omission::Socket => f.write_str("is a socket"),
            Omission::BlockDevice => f.write_str("is a block device"),
            Omission::CharDevice => f.write_str("is a character device"),
            Omission::Vanished => f.write_str("does not exist any more"),
            Omission::Attribute(name) => {
                write!(f, "lost its attribute {}", name.to_string_lossy())
            }
        }
    }
}

/// Summary of a [`Copier`](super::Copier).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of objects, including directories that already existed.
    pub objects: u64,
    /// Total size of the copied files in bytes, holes included, each file once.
    pub bytes: u64,
    /// Objects that were not copied, in order.
    pub skipped: Vec<Skipped>,
}
