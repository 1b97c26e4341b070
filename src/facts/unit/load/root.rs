//! Symbolic links resolved as a process with the given root directory would see them.

use crate::sys::path::below;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Maximum number of links in a path, as in the kernel: path_resolution(7).
const MAX_LINKS: usize = 40;

/// Resolves all symbolic links of `path` within `root` and returns the path as seen from that root.
///
/// # Errors
/// The kernel's: not found, too many links, permission denied.
pub(in crate::facts::unit) fn chase(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut left: VecDeque<OsString> = parts(path).collect();
    let mut done = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        let real = below(root, &next);
        if !fs::symlink_metadata(&real)?.is_symlink() {
            done = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(nix::libc::ELOOP));
        }
        let target = fs::read_link(&real)?;
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
            left.push_front(part);
        }
    }
    Ok(done)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib/x")).unwrap();
        fs::write(root.join("usr/lib/x/f"), "").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/lib/x", root.join("abs")).unwrap();
        symlink("../../../usr", root.join("up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, real) in [
            ("/lib/x/f", "/usr/lib/x/f"),
            ("/abs/f", "/usr/lib/x/f"),
            ("/up/lib/../lib/x", "/usr/lib/x"),
        ] {
            assert_eq!(chase(root, Path::new(path)).unwrap(), Path::new(real));
        }
        assert!(chase(root, Path::new("/loop")).is_err());
        assert_eq!(
            chase(root, Path::new("/none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
