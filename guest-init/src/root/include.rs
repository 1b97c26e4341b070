//! Copying into the sandbox.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::Place;
use super::target::{Last, locate, make_parent};
use crate::config::{IdMap, Include};

/// Copies a file, a link or a directory with all below it. What is there of the same name is replaced; a directory is
/// added to.
///
/// # Errors
/// Where something cannot be read or written.
pub fn include(place: &Place, wanted: &Include) -> Result<()> {
    let doing = || format!("copying to '{}'", wanted.target.display());
    let source = place.staged(&wanted.source).with_context(doing)?;
    let target = locate(&place.root, &wanted.target, Last::Kept).with_context(doing)?;
    let copied = make_parent(&target).and_then(|()| copy(&source, &target, place.ids()));
    match copied {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => bail!(
            "copying to '{}': read-only, and no writable mount covers it",
            wanted.target.display()
        ),
        outcome => outcome.with_context(doing),
    }
}

fn copy(source: &Path, target: &Path, ids: Option<IdMap>) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    let kind = metadata.file_type();
    let present = fs::symlink_metadata(target).ok();
    let has_directory = present.as_ref().is_some_and(Metadata::is_dir);
    if present.is_some() && !has_directory {
        fs::remove_file(target)?;
    }
    if kind.is_dir() {
        if !has_directory {
            fs::DirBuilder::new().mode(0o700).create(target)?;
        }
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            copy(&entry.path(), &target.join(entry.file_name()), ids)?;
        }
    } else if kind.is_symlink() {
        symlink(fs::read_link(source)?, target)?;
    } else if kind.is_file() {
        fs::copy(source, target)?;
    } else {
        return Err(io::Error::other(format!(
            "'{}' is no file, link or directory",
            source.display()
        )));
    }
    dress(target, &metadata, ids)
}

/// Owner, mode and time. A share may not let the owner be changed, which leaves that of who runs the host's side.
fn dress(path: &Path, like: &Metadata, ids: Option<IdMap>) -> io::Result<()> {
    // An owner that the sandbox does not have leaves it to root.
    let inside = |id| ids.map_or(id, |ids| ids.on_host(id).unwrap_or(ids.first));
    match lchown(path, Some(inside(like.uid())), Some(inside(like.gid()))) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if !like.is_symlink() {
        // After the owner: changing that takes set-user-ID away (chown(2)).
        fs::set_permissions(path, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    }
    let accessed = TimeSpec::new(like.atime(), like.atime_nsec());
    let modified = TimeSpec::new(like.mtime(), like.mtime_nsec());
    let no_follow = UtimensatFlags::NoFollowSymlink;
    match utimensat(nix::fcntl::AT_FDCWD, path, &accessed, &modified, no_follow) {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
