//! Device nodes, as libvirt has made them for the container.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::mounts::restrictions_of;
use crate::config::IdMap;

/// Where terminals are.
const TERMINALS: &str = "/dev/pts";

/// The group of terminals that may be written to (systemd and every distribution's `base-passwd`).
const TTY: u32 = 5;

/// Terminals that a sandbox may have at a time: the kernel has some thousands for all (`kernel.pty.max`).
const MOST_TERMINALS: u32 = 1024;

/// Gives what is in `/dev` to the ids of a user namespace.
///
/// # Errors
/// Where the kernel refuses.
pub fn give(ids: IdMap) -> Result<()> {
    give_tree(Path::new("/dev"), ids).context("handing over '/dev'")?;
    let terminals = Path::new(TERMINALS);
    let is_mounted =
        || io::Result::Ok(fs::metadata(terminals)?.dev() != fs::metadata("/dev")?.dev());
    if !is_mounted().unwrap_or(false) {
        return Ok(());
    }
    give_tree(terminals, ids).with_context(|| format!("handing over '{TERMINALS}'"))?;
    let group = ids.on_host(TTY).unwrap_or(ids.first);
    let options = format!("gid={group},mode=620,ptmxmode=666,max={MOST_TERMINALS}");
    let flags = MsFlags::MS_REMOUNT | restrictions_of(terminals)?;
    mount(
        None::<&str>,
        terminals,
        None::<&str>,
        flags,
        Some(options.as_str()),
    )
    .with_context(|| format!("handing over '{TERMINALS}'"))
}

/// Everything on the filesystem of `path`.
fn give_tree(path: &Path, ids: IdMap) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    // Those are given one by one: what a mount is on must not be written to beside it.
    if metadata.file_type().is_block_device() {
        return Ok(());
    }
    if let (Some(user), Some(group)) = (ids.on_host(metadata.uid()), ids.on_host(metadata.gid())) {
        lchown(path, Some(user), Some(group))?;
    }
    if !metadata.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.metadata()?.dev() == metadata.dev() {
            give_tree(&entry.path(), ids)?;
        }
    }
    Ok(())
}
