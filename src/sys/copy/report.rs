//! What a copier says about what it did.

use std::ffi::OsString;
use std::path::PathBuf;

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// A regular file, of this size in bytes.
    File {
        /// The size, holes included.
        size: u64,
    },
    /// A further name of a file that was copied before.
    HardLink,
    /// A symlink.
    Symlink,
    /// A directory, without what is in it.
    Directory,
    /// A fifo, made anew.
    Fifo,
    /// Nothing.
    Skipped(Omission),
}

/// Something that was not copied. Prints as a phrase: "'/run/x' is a socket".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The path inside the source root.
    pub path: PathBuf,
    /// What is missing.
    pub what: Omission,
}

/// Why, or which part of, an object was not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Omission {
    /// A socket: only the process that bound it gives it a meaning.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// It was gone when its turn came.
    Vanished,
    /// An extended attribute that the destination's filesystem does not support; the rest is there.
    Attribute(OsString),
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}' ", crate::error::shown(&self.path))?;
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

/// What a [`Copier`](super::Copier) did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many objects were made; directories that were there count too.
    pub objects: u64,
    /// The sizes of the files copied, in bytes, holes included, each file once.
    pub bytes: u64,
    /// What was not copied, in the order it was met.
    pub skipped: Vec<Skipped>,
}
