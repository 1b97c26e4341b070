//! Unpacks members of an archive below a root.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{linkat, mkfifoat, symlinkat};

use super::read::reading;
use super::{ArchiveError, Kind, Member, Reader, Result, sparse};
use crate::sys::copy::attributes::Attributes;
use crate::sys::root::{Parents, Root};

/// Bytes that are unpacked between two interruption checks.
const CHUNK: usize = 1 << 18;

/// Unpacks members below a root. Existing objects are never replaced, and no symlink is followed.
#[derive(Debug)]
#[must_use = "directories get their owner, mode and times in `finish`"]
pub struct Extractor<'x> {
    root: &'x Root,
    directories: Vec<(PathBuf, Attributes)>,
}

impl<'x> Extractor<'x> {
    /// Creates an extractor for `root`.
    pub fn new(root: &'x Root) -> Self {
        Self {
            root,
            directories: Vec::new(),
        }
    }

    /// Unpacks the member that was read last to `to`. A [`Kind::Link`] becomes a hard link to `link`, a
    /// path in the root. Stops if `interrupted` returns true.
    ///
    /// # Errors
    /// If something exists at `to`, a symlink is on the way, the disk is full, or the archive cannot be
    /// read.
    pub fn unpack(
        &mut self,
        reader: &mut Reader<'_>,
        member: Member,
        to: &Path,
        link: Option<&Path>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<()> {
        let (parent, name) = self.root.parent(to, Parents::NoSymlinks)?;
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        let failed = |source: io::Error| ArchiveError::Unpack {
            path: self.root.host_path(to),
            source,
        };
        let attributes = member.attributes;
        let lost = match member.kind {
            Kind::File { sparse } => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                let file =
                    openat(&parent, name, flags, private).map_err(|errno| failed(errno.into()))?;
                let file = File::from(file);
                fill(reader, &file, sparse, &failed, interrupted)?;
                attributes.apply(&file).map_err(failed)?
            }
            Kind::Directory => {
                mkdirat(&parent, name, Mode::S_IRWXU).map_err(|errno| failed(errno.into()))?;
                self.directories.push((to.to_owned(), attributes));
                return Ok(());
            }
            Kind::Symlink(target) => {
                symlinkat(&target, &parent, name).map_err(|errno| failed(errno.into()))?;
                attributes.apply_to_symlink(&parent, name).map_err(failed)?
            }
            Kind::Link(_) => {
                let Some(link) = link else {
                    return Ok(());
                };
                let (from, first) = self.root.parent(link, Parents::NoSymlinks)?;
                linkat(&from, first, &parent, name, AtFlags::empty())
                    .map_err(|errno| failed(errno.into()))?;
                return Ok(());
            }
            Kind::Fifo => {
                mkfifoat(&parent, name, private).map_err(|errno| failed(errno.into()))?;
                // fifo(7): a non-blocking open for reading does not wait.
                let flags =
                    OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fifo = openat(&parent, name, flags, Mode::empty())
                    .map_err(|errno| failed(errno.into()))?;
                attributes.apply(&File::from(fifo)).map_err(failed)?
            }
        };
        self.note_lost(to, &lost);
        Ok(())
    }

    /// Sets owner, mode, attributes and times of the directories.
    pub fn finish(mut self) -> Result<()> {
        // Children first: changing a child changes the times of its directory.
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let (parent, name) = self.root.parent(&path, Parents::NoSymlinks)?;
            let lost = open_directory(&parent, name)
                .and_then(|directory| attributes.apply(&directory))
                .map_err(|source| ArchiveError::Unpack {
                    path: self.root.host_path(&path),
                    source,
                })?;
            self.note_lost(&path, &lost);
        }
        Ok(())
    }

    fn note_lost(&self, path: &Path, names: &[OsString]) {
        for name in names {
            log::debug!("'{}' lost its attribute {}", path.display(), name.display());
        }
    }
}

fn open_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(parent, name, flags, Mode::empty())?))
}

/// Writes the content of the member that was read last.
fn fill(
    reader: &mut Reader<'_>,
    mut file: &File,
    sparse: Option<u64>,
    failed: &dyn Fn(io::Error) -> ArchiveError,
    interrupted: &dyn Fn() -> bool,
) -> Result<()> {
    let extents: Vec<Range<u64>> = match sparse {
        None => std::iter::once(0..reader.left).collect(),
        Some(size) => {
            let mut limited = (&mut reader.from).take(reader.left);
            let map = sparse::read_map(&mut limited, size).map_err(reading)?;
            let (extents, used) = map.ok_or(ArchiveError::Damaged("the map of a sparse file"))?;
            reader.left -= used;
            file.set_len(size).map_err(failed)?;
            extents
        }
    };
    if extents
        .iter()
        .map(|extent| extent.end - extent.start)
        .sum::<u64>()
        != reader.left
    {
        return Err(ArchiveError::Damaged("the map of a sparse file"));
    }
    let mut buffer = vec![0; CHUNK];
    for extent in extents {
        file.seek(SeekFrom::Start(extent.start)).map_err(failed)?;
        let mut left = extent.end - extent.start;
        while left > 0 {
            if interrupted() {
                return Err(ArchiveError::Interrupted);
            }
            let some = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            reader
                .from
                .read_exact(&mut buffer[..some])
                .map_err(reading)?;
            file.write_all(&buffer[..some]).map_err(failed)?;
            left -= some as u64;
            reader.left -= some as u64;
        }
    }
    Ok(())
}
