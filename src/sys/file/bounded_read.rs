//! Bounded reads of files that others write: they may have any size and any content.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// Reads the last `most` bytes of a file as text, from the beginning of a line if the file is longer.
pub fn tail(path: &Path, most: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match text.split_once('\n') {
        Some((_, rest)) if skipped > 0 => rest.to_owned(),
        _ => text.into_owned(),
    })
}

/// Reads a regular file of at most `most` bytes as text.
///
/// # Errors
/// If the file is longer, not UTF-8, or not a regular file. A fifo is refused without waiting for a writer.
pub fn regular_file(path: &Path, most: u64) -> io::Result<String> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    // Invalid UTF-8 may come from the cut, so the length is checked first.
    let read = file.take(most + 1).read_to_string(&mut text);
    match read {
        Ok(length) if length as u64 > most => {
            Err(io::Error::other(format!("longer than {most} bytes")))
        }
        read => read.map(|_| text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_short_regular_file_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("text"), "1234").unwrap();
        assert_eq!(regular_file(&path("text"), 4).unwrap(), "1234");
        assert!(regular_file(&path("text"), 3).is_err());
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("zero")).unwrap();
        for name in ["fifo", "zero", ".", "none"] {
            assert!(regular_file(&path(name), 100).is_err(), "{name}");
        }
    }

    #[test]
    fn no_more_than_the_end_is_read_of_whatever_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(tail(&path, 10).is_err());
        for (content, expected) in [
            (&b""[..], ""),
            (b"one\ntwo\n", "one\ntwo\n"),
            (b"one\ntwo\nthree\n", "three\n"),
            (b"one long line without an end", "out an end"),
            (b"a\xff\n", "a\u{fffd}\n"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(tail(&path, 10).unwrap(), expected);
        }
        // A sparse file of any size.
        let file = File::options().append(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(tail(&path, 10).unwrap().len(), 10);
    }
}
