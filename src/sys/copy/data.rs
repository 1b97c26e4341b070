//! Content of a regular file, with its holes.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Attempts to read a file that changes.
const ATTEMPTS: u32 = 3;

/// Bytes that are copied between two interruption checks. Block sharing needs whole multiples of the block
/// size.
const CHUNK: u64 = 64 << 20;

/// Error of [`copy`]: the file did not stop changing. The caller knows its path.
#[derive(Debug, thiserror::Error)]
#[error("the file keeps changing")]
struct Unsteady;

/// Returns whether [`copy`] failed because the file was written to meanwhile.
pub(super) fn was_changed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Unsteady>())
}

/// Error of [`copy`]: the caller interrupted it.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Stopped;

/// Returns whether [`copy`] was interrupted.
pub(super) fn was_stopped(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// Copies the content of `from`, and returns the metadata that belongs to exactly this content. Stops if
/// `stop` returns true.
pub(super) fn copy(from: &File, to: &File, stop: &dyn Fn() -> bool) -> io::Result<Metadata> {
    copy_watched(from, to, stop, |_| {})
}

/// Does the work of [`copy`]; calls `after` when an attempt has read everything, so that tests can write to
/// the file then.
fn copy_watched(
    from: &File,
    to: &File,
    stop: &dyn Fn() -> bool,
    mut after: impl FnMut(u32),
) -> io::Result<Metadata> {
    for attempt in 1..=ATTEMPTS {
        let before = from.metadata()?;
        copy_extents(from, to, before.len(), stop)?;
        after(attempt);
        if state(&from.metadata()?) == state(&before) {
            return Ok(before);
        }
    }
    Err(io::Error::other(Unsteady))
}

/// Returns values that change with every write: size, mtime and ctime. A writer can set the mtime back, but
/// not the ctime.
pub(in crate::sys) fn state(metadata: &Metadata) -> (u64, i64, i64, i64, i64) {
    (
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

fn copy_extents(from: &File, to: &File, size: u64, stop: &dyn Fn() -> bool) -> io::Result<()> {
    // Truncates first, so that a second attempt also starts from one hole.
    to.set_len(0)?;
    to.set_len(size)?;
    for extent in extents(from, size)? {
        let (mut from, mut to) = (from, to);
        from.seek(SeekFrom::Start(extent.start))?;
        to.seek(SeekFrom::Start(extent.start))?;
        let mut left = extent.end - extent.start;
        while left > 0 {
            if stop() {
                return Err(io::Error::other(Stopped));
            }
            let some = left.min(CHUNK);
            // Between two files this is copy_file_range(2), which shares blocks where it can.
            if io::copy(&mut Read::take(from, some), &mut to)? < some {
                // The file became shorter; the caller compares the sizes.
                return Ok(());
            }
            left -= some;
        }
    }
    Ok(())
}

/// Returns the ranges with data, without holes, in the first `size` bytes of a file.
pub(in crate::sys) fn extents(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let size = i64::try_from(size).map_err(io::Error::other)?;
    let mut extents = Vec::new();
    let mut done = 0;
    while done < size {
        // lseek(2): ENXIO means no data after this offset; EINVAL, a filesystem that cannot tell.
        let start = match lseek(file, done, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) => done,
            Err(errno) => return Err(errno.into()),
        };
        let end = match lseek(file, start, Whence::SeekHole) {
            Ok(end) => end.min(size),
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) => size,
            Err(errno) => return Err(errno.into()),
        };
        if end <= start {
            break;
        }
        extents.push(start.cast_unsigned()..end.cast_unsigned());
        done = end;
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    fn attempt(changes_until: u32, change: impl Fn(&mut File)) -> io::Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("from");
        fs::write(&path, "0").unwrap();
        let from = File::open(&path).unwrap();
        let to = File::create(dir.path().join("to")).unwrap();
        copy_watched(&from, &to, &|| false, |attempt| {
            if attempt < changes_until {
                change(&mut OpenOptions::new().append(true).open(&path).unwrap());
            }
        })?;
        Ok(fs::read_to_string(dir.path().join("to")).unwrap())
    }

    #[test]
    fn a_copy_is_stopped_in_the_middle_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("from");
        fs::write(&path, "0").unwrap();
        let (from, to) = (
            File::open(&path).unwrap(),
            File::create(dir.path().join("to")).unwrap(),
        );
        assert!(was_stopped(&copy(&from, &to, &|| true).unwrap_err()));
        copy(&from, &to, &|| false).unwrap();
    }

    #[test]
    fn a_change_is_noticed_and_read_again() {
        let append = |file: &mut File| file.write_all(b"1").unwrap();
        assert_eq!(attempt(1, append).unwrap(), "0");
        assert_eq!(attempt(2, append).unwrap(), "01");
        assert_eq!(attempt(3, append).unwrap(), "011");
        assert!(was_changed(&attempt(4, append).unwrap_err()));
        let shrink = |file: &mut File| file.set_len(0).unwrap();
        assert_eq!(attempt(2, shrink).unwrap(), "");
    }
}
