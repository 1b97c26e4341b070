//! Entries of several directories.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the paths in all `directories` except `but`. An unreadable directory counts as empty.
pub fn entries_except<'a>(
    directories: &[PathBuf],
    but: &'a Path,
) -> impl Iterator<Item = PathBuf> + use<'a> {
    let entries: Vec<fs::ReadDir> = directories
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .collect();
    let paths = entries.into_iter().flatten().flatten();
    paths
        .map(|entry| entry.path())
        .filter(move |path| path != but)
}
