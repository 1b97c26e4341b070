//! The end of a file that somebody else writes: there may be any amount of it, and anything in it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The last `most` bytes of a file, as text, from the beginning of a line if there are more.
///
/// # Errors
/// Where it cannot be read.
pub fn last(path: &Path, most: u64) -> io::Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_end_is_read_of_whatever_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(last(&path, 10).is_err());
        for (content, expected) in [
            (&b""[..], ""),
            (b"one\ntwo\n", "one\ntwo\n"),
            (b"one\ntwo\nthree\n", "three\n"),
            (b"one long line without an end", "out an end"),
            (b"a\xff\n", "a\u{fffd}\n"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(last(&path, 10).unwrap(), expected);
        }
        // As long as it likes.
        let file = File::options().append(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(last(&path, 10).unwrap().len(), 10);
    }
}
