//! Removal of files, and of an untrusted tree of any depth.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, openat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::fault;

/// Depth of the recursion. Deeper directories are moved to the top first, because each level holds a
/// descriptor.
const DEEPEST: u32 = 64;

/// Removes the file at `path`. A missing one is no error.
///
/// # Errors
/// If it is a directory, or cannot be removed.
pub fn file(path: &Path) -> io::Result<()> {
    fault::point()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes the file at `path` as [`file()`] does, and returns when that is on disk.
///
/// # Errors
/// If it is a directory, or cannot be removed.
pub fn file_durably(path: &Path) -> io::Result<()> {
    file(path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Removes whatever is at `path`, a directory with all in it. A missing one is no error.
///
/// # Errors
/// If something cannot be removed.
pub fn any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => tree(path),
        Ok(_) => file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the directory at `path` with all in it. No symlink is followed.
///
/// # Errors
/// If `path` is not a directory, or something in it cannot be removed.
pub fn tree(path: &Path) -> io::Result<()> {
    fault::point()?;
    let top = File::from(open(path, directory(), Mode::empty())?);
    let mut moved = 0;
    loop {
        let before = moved;
        clear(&top, &top, 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    drop(top);
    unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir).map_err(io::Error::from)
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Empties `dir`, except for directories that are moved to `top`.
fn clear(dir: &File, top: &File, depth: u32, moved: &mut u64) -> io::Result<()> {
    let mut entries = Dir::openat(dir, ".", directory(), Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        // unlink(2): Linux returns EISDIR for a directory, POSIX has EPERM.
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if depth == DEEPEST {
            move_to(top, dir, name, moved)?;
            continue;
        }
        let inside = File::from(openat(dir, name, directory(), Mode::empty())?);
        clear(&inside, top, depth + 1, moved)?;
        unlinkat(dir, name, UnlinkatFlags::RemoveDir)?;
    }
    Ok(())
}

fn move_to(top: &File, dir: &File, name: &std::ffi::CStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let there = format!(".removed-{moved}");
        match renameat2(
            dir.as_fd(),
            name,
            top.as_fd(),
            there.as_str(),
            RenameFlags::RENAME_NOREPLACE,
        ) {
            Err(Errno::EEXIST) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn a_missing_file_is_removed_already() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for _ in 0..2 {
            fs::write(&path, "").unwrap();
            file_durably(&path).unwrap();
            file_durably(&path).unwrap();
            any(&path).unwrap();
        }
        fs::create_dir_all(path.join("b")).unwrap();
        assert!(file(&path).is_err());
        any(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_tree_of_any_depth_goes() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::write(&kept, "").unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::create_dir_all(top.join(".removed-1")).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        symlink(dir.path(), top.join("a/link")).unwrap();
        // More levels than there can be descriptors, and longer than any path.
        let mut deep = File::open(&top).unwrap();
        for level in 0..5000 {
            for name in ["x", "y"].iter().take(1 + usize::from(level % 100 == 0)) {
                mkdirat(&deep, *name, Mode::S_IRWXU).unwrap();
            }
            deep = File::from(openat(&deep, "x", directory(), Mode::empty()).unwrap());
        }
        drop(deep);
        tree(&top).unwrap();
        assert!(!top.exists() && kept.exists());
        assert!(tree(&top).is_err() && tree(&kept).is_err());
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(tree(&link).is_err() && kept.exists());
    }
}
