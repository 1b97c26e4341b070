//! Functions on paths that read no filesystem.

use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

/// Returns the absolute `path` below `root`. Symlinks are not resolved: [`Root`](crate::sys::root::Root) does that.
#[must_use]
pub fn below(root: impl AsRef<Path>, path: &Path) -> PathBuf {
    root.as_ref().join(relative(path))
}

/// Returns an absolute path without its leading slash.
#[must_use]
pub fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Makes a path absolute and lexically normal: no `.`, `..`, `//` or trailing slash.
#[must_use]
pub fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

/// Returns a path that leads to the object behind a descriptor, even a symlink: the links of `/proc/self/fd` are not text
/// (proc(5)).
pub(in crate::sys) fn proc_path(fd: &dyn AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, expected) in [("/etc/x", "/r/etc/x"), ("etc/x", "/r/etc/x"), ("/", "/r/")] {
            assert_eq!(below("/r", Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn normal_paths_are_absolute_and_free_of_dots() {
        for (path, expected) in [
            ("/a/./b/../../../c//d/", "/c/d"),
            ("a/b", "/a/b"),
            ("..", "/"),
        ] {
            assert_eq!(normalize(Path::new(path)), Path::new(expected));
        }
    }
}
