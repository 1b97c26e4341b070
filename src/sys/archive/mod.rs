//! Tree of files in one stream: a POSIX tar archive (`pax(1)`), which `tar` also reads.
//!
//! The archive keeps what the exact [copy](crate::sys::copy) keeps, except access times: numeric owners,
//! modes, times, extended attributes (as `SCHILY.xattr.`), hard links, and holes (GNU's sparse format 1.0).
//! Headers come from the crate `tar`; members are parsed here, because the crate splits extended attributes
//! at every newline.
//!
//! An archive is untrusted: members are unpacked strictly below a root, through no symlink, over nothing that
//! exists.

mod compression;
mod pax;
mod read;
mod sparse;
mod unpack;
mod write;

use std::io;
use std::path::PathBuf;

pub use compression::{Compression, decompressed};
pub use read::{Kind, Member, Reader};
pub use unpack::Extractor;
pub use write::Writer;

use crate::error::{ErrorKind, LowerError, abbreviate};
use crate::sys::copy::Omission;
use crate::sys::root::RootError;

/// Size of a block; everything in an archive is padded to it.
const BLOCK: u64 = 512;

/// Prefix of extended attributes in a PAX header.
const XATTR: &str = "SCHILY.xattr.";

/// Error of reading or writing an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("writing the archive")]
    Write(#[source] io::Error),
    #[error("reading the archive")]
    Read(#[source] io::Error),
    #[error("reading the archive: it is cut off")]
    Truncated,
    #[error("reading the archive: it is none, or it is damaged ({0})")]
    Damaged(&'static str),
    #[error("reading the archive: '{}' {reason}", abbreviate(name))]
    Refused { name: PathBuf, reason: &'static str },
    #[error("archiving '{}'", abbreviate(path))]
    Archive {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "archiving '{}': it was written to while it was read, stop its writer first",
        abbreviate(path)
    )]
    Changed { path: PathBuf },
    #[error("unpacking '{}'", abbreviate(path))]
    Unpack {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("interrupted")]
    Interrupted,
}

impl LowerError for ArchiveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Truncated | Self::Damaged(_) | Self::Refused { .. } => ErrorKind::Refused,
            Self::Changed { .. } => ErrorKind::Busy,
            Self::Root(_)
            | Self::Write(_)
            | Self::Read(_)
            | Self::Archive { .. }
            | Self::Unpack { .. } => ErrorKind::Io,
        }
    }
}

type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// Returns the number of bytes from `size` to the end of its last block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// Part of an object that an archive does not hold, if any.
pub type Left = Option<Omission>;

#[cfg(test)]
mod tests;
