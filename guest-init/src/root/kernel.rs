//! What the kernel shows of the host in `/proc` and `/sys`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::mounts::bind;
use crate::config::Confinement;

/// Covers what shows the host, and seals what may only be read. What is not there needs no cover, and what cannot be covered
/// is only said: the kernel's own rights protect it, too.
pub fn mask(confinement: &Confinement) {
    for path in &confinement.masked {
        say(cover(path), path);
    }
    for path in &confinement.read_only {
        if path.exists() {
            say(bind(path, path, true), path);
        }
    }
}

fn say(done: Result<()>, path: &Path) {
    if let Err(error) = done {
        log::warn!("covering '{}': {error:#}", path.display());
    }
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
        Err(_) => Ok(()),
    }
}
