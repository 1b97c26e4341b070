//! Facts about the host, probed once at the edge and passed in.

pub mod cgroup;
pub mod daemons;
mod inventory;

use std::fs;
use std::path::{Path, PathBuf};

use guest_init::sys::mountinfo;

pub use self::inventory::Inventory;
use crate::error::{Error, Result};
use crate::sys::arch::Arch;

/// Facts about the host, probed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Root of the host.
    pub root: PathBuf,
    /// Architecture of the host and its sandboxes.
    pub arch: Arch,
    /// System directories in the root, shared read-only with every sandbox.
    pub system_dirs: Vec<SystemDir>,
    /// All mount points of the host.
    pub mount_points: Vec<PathBuf>,
}

/// System directory: `/usr`, and `/bin`, `/lib`… which are symlinks into it, or directories of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SystemDir {
    /// A directory.
    Directory(PathBuf),
    /// A symlink and its target.
    Link(PathBuf, PathBuf),
}

/// Names of the system directories in the root.
pub const SYSTEM_DIRS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

impl HostFacts {
    /// Probes the host below `root`; tests pass a fixture.
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
            root: root.to_owned(),
            arch: Arch::HOST,
            system_dirs,
            mount_points: mount_points()?,
        })
    }

    /// Returns `path` and every mount point below it, outermost first, as a non-recursive bind needs
    /// them.
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

/// Returns all mount points of the host.
pub fn mount_points() -> Result<Vec<PathBuf>> {
    let mounts = mountinfo::read().map_err(Error::step("reading the mounts of the host"))?;
    Ok(mounts.into_iter().map(|mount| mount.point).collect())
}

/// Returns the kernel's limit of processes and threads (`kernel.pid_max`, proc_sys_kernel(5)).
#[must_use]
pub fn pid_max() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    // Default on a small machine.
    text.trim().parse().unwrap_or(32768)
}

/// Returns whether a security module of the host labels what libvirt runs.
#[must_use]
pub fn has_security_module(root: &Path) -> bool {
    let apparmor = fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"));
    root.join("sys/fs/selinux/enforce").exists() || apparmor.is_ok_and(|text| text.trim() == "Y")
}

/// Returns whether systemd is the host's init, by the test of `sd_booted(3)`.
#[must_use]
pub fn runs_systemd() -> bool {
    fs::symlink_metadata("/run/systemd/system").is_ok_and(|metadata| metadata.is_dir())
}

/// Identification of the host's distribution, from `os-release(5)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct OsRelease {
    /// Distribution: `debian`.
    pub id: String,
    /// Release: `12`.
    pub version_id: String,
    /// Name and release for people.
    pub pretty_name: String,
}

impl OsRelease {
    /// Reads the file of the host below `root`; empty if there is none.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let texts = ["etc/os-release", "usr/lib/os-release"].map(|path| root.join(path));
        let text = texts.iter().find_map(|path| fs::read_to_string(path).ok());
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let found = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let value = found.unwrap_or_default().trim();
            value.trim_matches(['"', '\'']).to_owned()
        };
        Self {
            id: value("ID"),
            version_id: value("VERSION_ID"),
            pretty_name: value("PRETTY_NAME"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        let read = OsRelease::parse(text);
        assert_eq!(
            (read.id.as_str(), read.version_id.as_str()),
            ("debian", "12")
        );
        assert_eq!(read.pretty_name, "Debian GNU/Linux 12 (bookworm)");
    }
}
