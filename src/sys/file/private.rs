//! Directories and files of one user, created without access for others, and reused only if nobody else could
//! change them.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::libc;
use nix::unistd::geteuid;

/// Creates a directory with permissions `mode`, and its missing parents, or reuses an existing one.
/// Permissions beyond `mode` are removed.
///
/// # Errors
/// If the directory cannot be created, belongs to another user, or others can write to it: its content may
/// then be anybody's.
pub fn directory(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        // Parents of root's directories are shared; those of a user are in the user's home.
        let above = if geteuid().is_root() { 0o755 } else { 0o700 };
        DirBuilder::new()
            .recursive(true)
            .mode(above)
            .create(parent)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        // The umask may have removed bits.
        Ok(()) => return fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    if !is_own(&metadata) {
        return Err(io::Error::other(format!(
            "it belongs to user {}, or others can write to it; remove it",
            metadata.uid()
        )));
    }
    let here = metadata.mode() & 0o777;
    if here & !mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(here & mode))?;
    }
    Ok(())
}

/// Returns whether the calling user owns a file and nobody else can change it.
fn is_own(metadata: &Metadata) -> bool {
    metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

/// Returns whether `path` is a regular file that the calling user owns and nobody else can change.
#[must_use]
pub fn has_own_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && is_own(&metadata))
}

/// Writes a new file with the content of the user's file `source` and then `appended`. Only `reader` (user,
/// group) may read it, or the calling user if absent. The files share blocks where the filesystem can.
///
/// # Errors
/// If `source` belongs to another user, or `target` exists or cannot be written.
pub fn copy(
    source: &Path,
    target: &Path,
    reader: Option<(u32, u32)>,
    appended: &[u8],
) -> io::Result<()> {
    let mut from = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(source)?;
    let metadata = from.metadata()?;
    if !metadata.is_file() || !is_own(&metadata) {
        return Err(io::Error::other(format!(
            "'{}' was changed by somebody else",
            source.display()
        )));
    }
    let mut to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(target)?;
    fill(&mut from, &mut to, appended)?;
    if let Some((user, group)) = reader {
        fchown(&to, Some(user), Some(group))?;
    }
    Ok(())
}

fn fill(from: &mut File, to: &mut File, appended: &[u8]) -> io::Result<()> {
    io::copy(from, to)?;
    to.write_all(appended)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("above/own");
        directory(&path, 0o700).unwrap();
        assert_eq!(mode(&path), 0o700);
        // Mode that earlier versions used.
        set_mode(&path, 0o711);
        directory(&path, 0o700).unwrap();
        assert_eq!(mode(&path), 0o700);
        directory(&path, 0o711).unwrap();
        assert_eq!(mode(&path), 0o700);
        for open in [0o770, 0o707, 0o777] {
            set_mode(&path, open);
            let error = directory(&path, 0o700).unwrap_err().to_string();
            assert!(error.contains("others can write"), "{open:o}: {error}");
            assert_eq!(mode(&path), open);
        }
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(directory(&dir.path().join("file"), 0o700).is_err());
    }

    #[test]
    fn a_copy_is_for_its_reader_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [source, target] = ["source", "target"].map(|name| dir.path().join(name));
        fs::write(&source, "one").unwrap();
        set_mode(&source, 0o644);
        assert!(has_own_file(&source));
        let own = (geteuid().as_raw(), nix::unistd::getegid().as_raw());
        copy(&source, &target, Some(own), b"two").unwrap();
        assert_eq!(mode(&target), 0o400);
        assert_eq!(fs::read(&target).unwrap(), b"onetwo");
        let error = copy(&source, &target, None, b"").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_others_can_change_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let [source, link, target] = ["source", "link", "target"].map(|name| dir.path().join(name));
        fs::write(&source, "one").unwrap();
        symlink(&source, &link).unwrap();
        set_mode(&source, 0o666);
        for path in [&source, &link] {
            assert!(!has_own_file(path));
            assert!(copy(path, &target, None, b"").is_err());
            assert!(!target.exists());
        }
        if geteuid().is_root() {
            set_mode(&source, 0o644);
            std::os::unix::fs::chown(&source, Some(1), None).unwrap();
            assert!(!has_own_file(&source));
            let error = copy(&source, &target, None, b"").unwrap_err().to_string();
            assert!(error.contains("changed by somebody else"), "{error}");
        }
    }
}
