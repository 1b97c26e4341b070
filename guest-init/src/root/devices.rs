//! Device nodes, which libvirt has made for the container.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::mount_ops::restrictions_of;
use crate::config::{Device, IdMap};

/// Id that owns nothing; the kernel shows it for ids without a mapping (`user_namespaces(7)`).
const NOBODY: u32 = 65534;

const TERMINALS: &str = "/dev/pts";

/// Group of terminals that may be written to (systemd and the `base-passwd` of every distribution).
const TTY: u32 = 5;

/// Terminals of one sandbox at a time. The kernel has a few thousand in all (`kernel.pty.max`).
const MOST_TERMINALS: u32 = 1024;

/// Maps the owners of all files in `/dev` to the ids of a user namespace.
pub fn assign(ids: IdMap) -> Result<()> {
    assign_tree(Path::new("/dev"), ids).context("handing over '/dev'")?;
    let terminals = Path::new(TERMINALS);
    let is_mounted =
        || io::Result::Ok(fs::metadata(terminals)?.dev() != fs::metadata("/dev")?.dev());
    if !is_mounted().unwrap_or(false) {
        return Ok(());
    }
    assign_tree(terminals, ids).with_context(|| format!("handing over '{TERMINALS}'"))?;
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

/// Sets owner and mode of a device, by the ids of the sandbox.
pub fn set_access(device: &Device, ids: Option<IdMap>) -> Result<()> {
    let on_host = |id| ids.map_or(Some(id), |ids| ids.on_host(id));
    // An id without a mapping becomes nobody's.
    let owner = [device.uid, device.gid].map(|id| on_host(id).or(on_host(NOBODY)));
    let [user, group] = owner;
    lchown(&device.path, user, group)
        .and_then(|()| fs::set_permissions(&device.path, Permissions::from_mode(device.mode)))
        .with_context(|| format!("handing over '{}'", device.path.display()))
}

/// Maps the owners of all files on the filesystem of `path`.
fn assign_tree(path: &Path, ids: IdMap) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    // Block devices are assigned one by one: a device with a mounted filesystem must not be written directly.
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
            assign_tree(&entry.path(), ids)?;
        }
    }
    Ok(())
}
