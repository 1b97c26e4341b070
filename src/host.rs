//! Facts about the host, probed once at the edge and passed in.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What the rest of the library knows of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Architecture as libvirt names it: `x86_64`.
    pub arch: String,
    /// The system directories of the root, shared read-only with every sandbox.
    pub system_dirs: Vec<SystemDir>,
    /// Every mount point of the host.
    pub mount_points: Vec<PathBuf>,
}

/// `/usr`, and `/bin`, `/lib`… which are links into it, or directories of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemDir {
    /// A directory.
    Directory(PathBuf),
    /// A link and what it says.
    Link(PathBuf, PathBuf),
}

const SYSTEM_DIRS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

impl HostFacts {
    /// Looks at the host below `root`; `/` but for tests.
    ///
    /// # Errors
    /// Where `/proc` or the root cannot be read.
    pub fn probe(root: &Path) -> Result<Self> {
        let mut system_dirs = Vec::new();
        for name in SYSTEM_DIRS {
            let path = root.join(name);
            let inside = Path::new("/").join(name);
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_symlink() => {
                    let points_to = fs::read_link(&path).map_err(Error::io("reading", &path))?;
                    system_dirs.push(SystemDir::Link(inside, points_to));
                }
                Ok(metadata) if metadata.is_dir() => system_dirs.push(SystemDir::Directory(inside)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(Self {
            arch: std::env::consts::ARCH.to_owned(),
            system_dirs,
            mount_points: mount_points()?,
        })
    }

    /// `path` and every mount point below it, outermost first, as a non-recursive bind needs them.
    pub fn with_submounts<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        let mut below: Vec<&Path> = self
            .mount_points
            .iter()
            .map(PathBuf::as_path)
            .filter(|mount_point| mount_point.starts_with(path) && *mount_point != path)
            .collect();
        below.sort_unstable();
        below.dedup();
        std::iter::once(path).chain(below)
    }
}

/// Every mount point of the host.
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn mount_points() -> Result<Vec<PathBuf>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(Error::io("reading", table))?;
    Ok(guest_init::mountinfo::mount_points(&text).collect())
}

/// Whether systemd is the host's init, by the test of `sd_booted(3)`.
#[must_use]
pub fn runs_systemd() -> bool {
    fs::symlink_metadata("/run/systemd/system").is_ok_and(|metadata| metadata.is_dir())
}
