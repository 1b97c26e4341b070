//! Filesystems of the kernel, and the parts of them that show the host.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::mount_ops::bind;
use crate::config::Confinement;

/// Mount points of `/proc`, `/sys` and `/dev`, which are mounted in the staging root and moved to the new one.
pub const KERNEL_FILESYSTEMS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Covers the masked paths and makes the others read-only. A path that does not exist needs no cover.
///
/// # Errors
/// If an existing path cannot be covered: a sandbox that shows more than it should does not start.
pub fn mask(confinement: &Confinement) -> Result<()> {
    for path in &confinement.masked {
        cover(path).with_context(|| format!("covering '{}'", path.display()))?;
    }
    for path in &confinement.read_only {
        let doing = || format!("sealing '{}'", path.display());
        if fs::exists(path).with_context(doing)? {
            bind(path, path, true).with_context(doing)?;
        }
    }
    Ok(())
}

fn cover(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let kind = Some("tmpfs");
            let flags =
                MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(kind, path, kind, flags, Some("size=0,mode=755")).context("mounting a tmpfs")
        }
        Ok(metadata) if metadata.is_symlink() => Ok(()),
        Ok(_) => bind(Path::new("/dev/null"), path, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context("looking at it"),
    }
}
