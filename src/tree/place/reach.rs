//! Checks of access to a sandbox's place, and of links in place of its tree's directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use crate::error::{Error, Result};
use crate::guest::PRIVATE_DIRS;
use crate::sys::path::below;
use crate::sys::root::Root;

/// Checks that only root, or the user of this process, owns `path` and could replace it. Otherwise users of the host could
/// reach files that a sandbox has made, such as set-user-ID programs.
///
/// # Errors
/// The message names the path and the account.
pub fn check(path: &Path) -> Result<()> {
    let refused = |reason: String| {
        Error::refused(format!(
            "'{}' cannot hold the tree of a sandbox: {reason}; choose another with --path",
            path.display()
        ))
    };
    let is_there = |above: &&Path| above.symlink_metadata().is_ok();
    let Some(above) = path.ancestors().find(is_there) else {
        return Ok(());
    };
    let found = Root::of_host(Path::new("/"))?
        .canonical(above)
        .map_err(|error| refused(error.to_string()))?;
    for dir in found.ancestors() {
        let metadata = fs::symlink_metadata(dir).map_err(Error::io("looking at", dir))?;
        if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
            return Err(refused(format!(
                "'{}' belongs to user {}",
                dir.display(),
                metadata.uid()
            )));
        }
        let mode = Mode::from_bits_truncate(metadata.mode());
        let of_group = mode.contains(Mode::S_IWGRP) && metadata.gid() != 0;
        // In a sticky directory, others can neither remove nor rename files of root.
        let is_open = (mode.contains(Mode::S_IWOTH) || of_group) && !mode.contains(Mode::S_ISVTX);
        if is_open && dir != path {
            return Err(refused(format!(
                "others than root can write to '{}'",
                dir.display()
            )));
        }
    }
    Ok(())
}

/// Checks that the directories that the sandbox gets from the tree at `path` are no links, which libvirt would follow. A tree in an
/// image has no such directories.
///
/// # Errors
/// The message names the first one that is not a directory.
pub(super) fn check_tops(path: &Path) -> Result<()> {
    for dir in PRIVATE_DIRS {
        let dir = below(path, Path::new(dir));
        if dir.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(Error::refused(format!(
                "'{}' is not a directory, as every tree has it; put one in its place, or delete the sandbox",
                dir.display()
            )));
        }
    }
    Ok(())
}

/// Returns true if a tree has a directory at `path`.
pub fn has_directory(tree: &Root, path: &Path) -> bool {
    let found = tree.plain_object(path).and_then(|found| found.metadata());
    found.is_ok_and(|found| found.is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_place_that_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        for name in ["own", "open", "sticky", "theirs"] {
            fs::create_dir_all(top.join(name).join("tree")).unwrap();
        }
        let set = |name: &str, mode: u32| {
            fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        set("own", 0o755);
        set("open", 0o777);
        set("sticky", 0o1777);
        symlink(top.join("own"), top.join("open/link")).unwrap();
        let expected = [
            ("own/tree", true),
            ("own/new/new", true),
            ("sticky/tree", true),
            ("sticky/new", true),
            ("open/tree", false),
            ("open/new", false),
            ("open/link/tree", false),
        ];
        for (path, is_good) in expected {
            assert_eq!(check(&top.join(path)).is_ok(), is_good, "{path}");
        }
        // `make` sets this mode.
        assert!(check(&top.join("open")).is_ok());
        if !geteuid().is_root() {
            eprintln!("skipped: a_place_is_nobody_elses: not root");
            return;
        }
        for path in ["theirs", "sticky/tree"] {
            chown(top.join(path), Some(65534), None).unwrap();
        }
        for path in ["theirs/tree", "theirs/new", "theirs", "sticky/tree"] {
            assert!(check(&top.join(path)).is_err(), "{path}");
        }
        set("own", 0o775);
        assert!(check(&top.join("own/tree")).is_ok());
        chown(top.join("own"), None, Some(65534)).unwrap();
        assert!(check(&top.join("own/tree")).is_err());
    }
}
