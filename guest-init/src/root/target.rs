//! Where a path of the sandbox leads, and making what is to be there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Place, below};

/// As many links as the kernel follows (`path_resolution(7)`).
const MOST_LINKS: usize = 40;

/// What becomes of a link that is the last part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Followed,
    /// It is meant itself.
    Kept,
}

/// The path below `root` that `inside` leads to when `root` is the root. It has no links, and need not be there.
pub fn locate(root: &Path, inside: &Path, last: Last) -> Result<PathBuf> {
    let mut found = PathBuf::new();
    let mut rest = parts(inside);
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            found.pop();
            continue;
        }
        found.push(part);
        if rest.is_empty() && last == Last::Kept {
            break;
        }
        if let Ok(leads_to) = fs::read_link(root.join(&found)) {
            links += 1;
            if links > MOST_LINKS {
                bail!("following '{}': too many links", inside.display());
            }
            found.pop();
            if leads_to.is_absolute() {
                found.clear();
            }
            rest.extend(parts(&leads_to));
        }
    }
    Ok(below(root, &found))
}

/// The parts of a path, the first last.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

impl Kind {
    fn make(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Directory => fs::create_dir_all(path),
            Self::File if path.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Self::File if path.exists() => Ok(()),
            Self::File => {
                make_parent(path)?;
                fs::File::create_new(path).map(drop)
            }
        }
    }
}

pub fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Makes the mount point `target`, also where the filesystem does not let it, and says where it is.
pub fn provide(place: &Place, target: &Path, kind: Kind) -> Result<PathBuf> {
    create(place, target, Last::Followed, |path| kind.make(path))
}

/// Has `make` create `target`. Where the filesystem refuses, an overlay over the nearest directory that is there takes
/// it.
pub fn create(
    place: &Place,
    target: &Path,
    last: Last,
    make: impl Fn(&Path) -> io::Result<()>,
) -> Result<PathBuf> {
    let doing = || format!("creating '{}'", target.display());
    let path = locate(&place.root, target, last).with_context(doing)?;
    match make(&path) {
        Ok(()) => return Ok(path),
        Err(error) if refused(&error) => {}
        Err(error) => return Err(error).with_context(doing),
    }
    let mut above = path.ancestors().skip(1);
    let there = above
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(&place.root);
    let opened = || make(&path).context("even in an overlay");
    place
        .scratch()
        .and_then(|scratch| scratch.open_up(there, opened))
        .with_context(doing)?;
    Ok(path)
}

/// Whether the filesystem as such does not let this be made: it is read-only, or a share whose host does not allow it.
fn refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

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
            assert_eq!(at(Last::Followed), root.join(followed), "{path}");
            assert_eq!(at(Last::Kept), root.join(kept), "{path}");
        }
        let error = locate(root, Path::new("/loop/x"), Last::Followed).unwrap_err();
        assert_eq!(error.to_string(), "following '/loop/x': too many links");
    }
}
