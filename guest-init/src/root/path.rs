//! Paths below a root.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Links followed in one path, as many as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Joins the absolute path `inside` to `root`.
#[must_use]
pub fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// Returns the path of an open file. It leads there from any root (`proc_pid_fd(5)`).
pub(super) fn fd_path(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("opening '{}'", path.display()))
}

/// Creates a directory and its parents, unless they exist.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("creating '{}'", path.display()))
}

pub(super) fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Treatment of a link that is the last component of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLink {
    Follow,
    Keep,
}

/// Resolves `inside` as if `root` were the root. The returned path is below `root` and has no links; it need not exist.
pub(super) fn locate(root: &Path, inside: &Path, last: LastLink) -> Result<PathBuf> {
    let mut found = PathBuf::new();
    let mut rest = reversed_components(inside);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        found.push(part);
        if rest.is_empty() && last == LastLink::Keep {
            break;
        }
        if let Ok(leads_to) = fs::read_link(root.join(&found)) {
            links += 1;
            if links > MAX_LINKS {
                bail!("following '{}': too many links", inside.display());
            }
            found.pop();
            if leads_to.is_absolute() {
                found.clear();
            }
            rest.extend(reversed_components(&leads_to));
        }
    }
    Ok(below(root, &found))
}

/// Returns the components of a path in reverse order.
fn reversed_components(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_absolute_path_is_joined_below_the_root() {
        assert_eq!(
            below(Path::new("/newroot"), Path::new("/etc")),
            Path::new("/newroot/etc")
        );
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("../../../../run/stub", root.join("usr/resolv")).unwrap();
        symlink("/usr/bin/../resolv", root.join("etc")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, followed, kept) in [
            ("/bin/sh", "usr/bin/sh", "usr/bin/sh"),
            ("/bin", "usr/bin", "bin"),
            ("/etc", "run/stub", "etc"),
            ("/etc/x/../y", "run/stub/y", "run/stub/y"),
            ("/", "", ""),
            ("/no/../../such", "such", "such"),
        ] {
            let at = |last| locate(root, Path::new(path), last).unwrap();
            assert_eq!(at(LastLink::Follow), root.join(followed), "{path}");
            assert_eq!(at(LastLink::Keep), root.join(kept), "{path}");
        }
        let error = locate(root, Path::new("/loop/x"), LastLink::Follow).unwrap_err();
        assert_eq!(error.to_string(), "following '/loop/x': too many links");
    }
}
