//! Renaming that never replaces anything.

use std::io;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::sys::fault;

/// Renames `from` to `to` atomically, and fails if `to` exists (`RENAME_NOREPLACE` of renameat2(2)).
pub fn no_replace(from: &Path, to: &Path) -> io::Result<()> {
    fault::point()?;
    Ok(renameat2(
        AT_FDCWD,
        from,
        AT_FDCWD,
        to,
        RenameFlags::RENAME_NOREPLACE,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_empty_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let error = no_replace(&a, &b).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        no_replace(&a, &c).unwrap();
        assert!(c.is_dir() && !a.exists());
    }
}
