//! A tree that shares no inode with its other users.
//!
//! An overlay has inodes of its own, and a socket, a named pipe, a lock and a watch belong to an inode (`unix_find_bsd()`,
//! `fifo_open()`, `struct file_lock_context`, `fsnotify_add_mark()` of the kernel). So those of the overlay differ from those of
//! the filesystem below, while the content of files, with its page cache, is that of the filesystem below.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use super::mount_ops::{make_read_only, mount_points_below, read_mounts};
use super::overlay::Scratch;
use super::path::fd_path;
use crate::sys::unsupported::is_unsupported;

/// Filesystems that show the kernel or programs of the host, wherever they are mounted. A sandbox has its own.
const OF_THE_KERNEL: [&str; 20] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// Filesystems that cannot be the lower layer of an overlay, since their names have no case. They have neither sockets nor pipes.
const PLAIN: [&str; 3] = ["exfat", "msdos", "vfat"];

/// Most bytes of a single mounted file. It is copied to memory, since only directories can have an overlay.
const MAX_COPIED: u64 = 16 << 20;

/// Mounts a writable overlay over each filesystem of the tree at `root` and returns their mount points. A mount that cannot be kept
/// apart is left out of the tree.
///
/// # Errors
/// If the root itself cannot have an overlay, or another mount fails for a reason that is not lack of support.
pub fn isolate(scratch: &Scratch, root: &Path) -> Result<Vec<PathBuf>> {
    let table = read_mounts()?;
    let kind_of = |path: &Path| {
        let mount = table.iter().rfind(|mount| mount.point == path);
        mount.map_or("", |mount| mount.filesystem.as_str())
    };
    let mut covered: Vec<PathBuf> = Vec::new();
    let mut left_out: Vec<PathBuf> = Vec::new();
    for path in mount_points_below(root)? {
        if left_out.iter().any(|above| path.starts_with(above)) {
            continue;
        }
        let kind = kind_of(&path);
        let doing = || format!("keeping '{}' apart from the host's", path.display());
        let metadata = fs::symlink_metadata(&path).with_context(doing)?;
        let outcome = if OF_THE_KERNEL.contains(&kind) {
            Outcome::LeftOut
        } else if metadata.is_dir() {
            cover(scratch, &path, path == root, kind).with_context(doing)?
        } else if metadata.is_file() && metadata.len() <= MAX_COPIED {
            copy_in_place(&path).with_context(doing)?;
            Outcome::Copied
        } else {
            Outcome::LeftOut
        };
        match outcome {
            Outcome::Covered => covered.push(path),
            Outcome::Copied => {}
            Outcome::LeftOut => {
                umount2(&path, MntFlags::MNT_DETACH).with_context(doing)?;
                left_out.push(path);
            }
        }
    }
    Ok(covered)
}

/// Treatment of a mount in the tree.
enum Outcome {
    /// An overlay covers the mount.
    Covered,
    /// A copy in the filesystem around it takes its place, or the mount stays, read-only.
    Copied,
    /// The mount is detached, so nobody sees it.
    LeftOut,
}

fn cover(scratch: &Scratch, path: &Path, is_root: bool, kind: &str) -> Result<Outcome> {
    match scratch.cover(path) {
        Ok(()) => Ok(Outcome::Covered),
        Err(error) if is_root || !is_unsupported(&error) => Err(error),
        Err(error) if PLAIN.contains(&kind) => {
            log::debug!("{error:#}: it is read-only, and its locks are the host's");
            make_read_only(path)?;
            Ok(Outcome::Copied)
        }
        Err(error) => {
            log::warn!(
                "'{0}' is left out: its filesystem ({kind}) cannot be kept apart from the host's ({error:#}); \
                 '--mount host-bind:{0}={0},ro' shows it as it is",
                path.display()
            );
            Ok(Outcome::LeftOut)
        }
    }
}

/// Replaces a mounted file by a copy.
fn copy_in_place(path: &Path) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    let like = fs::metadata(fd_path(&file))?;
    umount2(path, MntFlags::MNT_DETACH)?;
    fs::copy(fd_path(&file), path)?;
    chown(path, Some(like.uid()), Some(like.gid()))?;
    // After the owner: chown(2) clears set-user-ID.
    fs::set_permissions(path, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    Ok(())
}
