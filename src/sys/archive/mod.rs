//! A tree of files in one stream: a tar archive as POSIX has it (`pax(1)`), which `tar` reads as well.
//!
//! Kept is what the exact [copy](crate::sys::copy) keeps but for times of access: numeric owners, modes, times, extended attributes
//! (as `SCHILY.xattr.`), hard links, and holes (GNU's sparse format 1.0). Headers are those of the crate `tar`; members are
//! read here, because it parts extended attributes at every newline.
//!
//! An archive may come from anywhere: what is read goes strictly below its root, through no link, over nothing that is there.

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

use crate::error::shown;
use crate::sys::copy::Omission;
use crate::sys::root::RootError;

/// Size of a block, to which everything in an archive is filled up.
const BLOCK: u64 = 512;

/// Prefix of extended attributes in a PAX header.
const XATTR: &str = "SCHILY.xattr.";

/// Reading or writing an archive failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
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
    #[error("reading the archive: '{}' {reason}", shown(name))]
    Refused { name: PathBuf, reason: &'static str },
    #[error("archiving '{}'", shown(path))]
    Archive {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "archiving '{}': it was written to while it was read, stop its writer first",
        shown(path)
    )]
    Changed { path: PathBuf },
    #[error("unpacking '{}'", shown(path))]
    Unpack {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("interrupted")]
    Interrupted,
}

type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// How far a number of bytes is from the end of its last block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// What an archive does not hold of an object, if it does not hold it.
pub type Left = Option<Omission>;

#[cfg(test)]
mod tests;
