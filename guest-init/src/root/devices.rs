//! Device nodes, as libvirt has made them for the container.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::mounts::restrictions_of;
use crate::config::{Device, IdMap};

/// Who owns nothing (`user_namespaces(7)`: what the kernel shows for ids that are none).
const NOBODY: u32 = 65534;

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

/// Lets those use a device who may on the host, by the ids of the sandbox.
///
/// # Errors
/// Where libvirt has made none, or the kernel refuses.
pub fn allow(device: &Device, ids: Option<IdMap>) -> Result<()> {
    let on_host = |id| ids.map_or(Some(id), |ids| ids.on_host(id));
    // Ids that the sandbox does not have are nobody's.
    let owner = [device.uid, device.gid].map(|id| on_host(id).or(on_host(NOBODY)));
    let [user, group] = owner;
    lchown(&device.path, user, group)
        .and_then(|()| fs::set_permissions(&device.path, Permissions::from_mode(device.mode)))
        .with_context(|| format!("handing over '{}'", device.path.display()))
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
