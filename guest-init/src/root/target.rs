//! Mount points and links of the root, created where they are missing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::path::{LastLink, locate, make_parent};
use super::place::Place;

/// Kind of a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Anything but a directory.
    File,
}

impl Kind {
    fn make(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Directory => fs::create_dir_all(path),
            Self::File if path.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Self::File if path.exists() => Ok(()),
            Self::File => {
                make_parent(path)?;
                fs::File::create_new(path).map(drop)
            }
        }
    }
}

/// Creates the mount point `target` unless it exists, even on a read-only filesystem, and returns its path below the root.
pub fn ensure_mount_point(place: &Place, target: &Path, kind: Kind) -> Result<PathBuf> {
    create(place, target, LastLink::Follow, |path| kind.make(path))
}

/// Creates `target` with `make`. If the filesystem refuses, the nearest existing directory gets an overlay that takes it.
pub fn create(
    place: &Place,
    target: &Path,
    last: LastLink,
    make: impl Fn(&Path) -> io::Result<()>,
) -> Result<PathBuf> {
    let doing = || format!("creating '{}'", target.display());
    let path = locate(place.root(), target, last).with_context(doing)?;
    match make(&path) {
        Ok(()) => return Ok(path),
        Err(error) if is_read_only(&error) => {}
        Err(error) => return Err(error).with_context(doing),
    }
    let mut ancestors = path.ancestors().skip(1);
    let existing = ancestors
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(place.root());
    let make_in_overlay = || make(&path).context("even in an overlay");
    place
        .scratch()
        .and_then(|scratch| scratch.with_writable(existing, make_in_overlay))
        .with_context(doing)?;
    Ok(path)
}

/// Returns whether the filesystem refuses all changes: it is read-only, or a share that the host keeps from changes.
fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}
