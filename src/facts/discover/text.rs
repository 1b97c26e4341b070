//! Bounded reads of texts and programs of the host.

use std::io::Read;
use std::path::Path;

use crate::sys::root::Root;

/// Maximum size of a configuration file that is searched for paths, in bytes.
const LARGEST_TEXT: u64 = 1 << 20;

/// Maximum number of bytes of a program that are searched for paths.
const LARGEST_PROGRAM: u64 = 64 << 20;

/// Reads a short text of the host; returns it with true if only root can have written it. Follows only links of root.
pub(super) fn read_text(host: &Root, file: &Path) -> Option<(String, bool)> {
    let path = host.canonical(file).ok()?;
    let opened = host.open_plain(&path).ok()?;
    let mut text = String::new();
    let read = opened.take(LARGEST_TEXT + 1).read_to_string(&mut text);
    let is_short = read.is_ok_and(|length| length as u64 <= LARGEST_TEXT);
    is_short.then_some((text, host.is_of_root(&path).unwrap_or(false)))
}

/// Reads the beginning of a program that only root can have written.
pub(super) fn read_program(host: &Root, program: &Path) -> Option<Vec<u8>> {
    let path = host.canonical(program).ok()?;
    if !host.is_of_root(&path).ok()? {
        return None;
    }
    let mut content = Vec::new();
    let file = host.open_plain(&path).ok()?;
    file.take(LARGEST_PROGRAM).read_to_end(&mut content).ok()?;
    Some(content)
}
