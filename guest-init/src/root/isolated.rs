//! A tree in which nothing is shared with those who have it as well.
//!
//! An overlay has inodes of its own. A socket, a named pipe, a lock or a watch belongs to an inode (`unix_find_bsd()`,
//! `fifo_open()`, `struct file_lock_context`, `fsnotify_add_mark()` of the kernel): what is made by path in an overlay, or was made
//! before in the filesystem below, is another one here. The content of files is the lower filesystem's, with its page cache.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use super::held;
use super::mounts::mount_points_below;
use super::overlay::{Scratch, seal, table};
use crate::sys::unsupported::is_unsupported;

/// Filesystems that show the kernel or the host's programs themselves, wherever they are mounted: a sandbox has its own.
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

/// Filesystems that cannot be below an overlay, since their names have no case, and have neither sockets nor pipes.
const PLAIN: [&str; 3] = ["exfat", "msdos", "vfat"];

/// The most bytes of a file that is a mount of its own. It is copied to memory, since only directories are laid over.
const MOST_COPIED: u64 = 16 << 20;

/// Lays an overlay over each filesystem of the tree at `root`, which can then be written, and gives their mount points. What
/// can be kept apart in no way is left out of the tree.
///
/// # Errors
/// Where the root itself cannot be laid over, or what went wrong may pass.
pub fn isolate(scratch: &Scratch, root: &Path) -> Result<Vec<PathBuf>> {
    let table = table()?;
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
        } else if metadata.is_file() && metadata.len() <= MOST_COPIED {
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
    /// An overlay is over it, or it is sealed.
    Covered,
    /// A file of the filesystem around it takes its place.
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
            seal(path)?;
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

/// Puts a copy in the place of a file that is a mount of its own.
fn copy_in_place(path: &Path) -> Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    let like = fs::metadata(held(&file))?;
    umount2(path, MntFlags::MNT_DETACH)?;
    fs::copy(held(&file), path)?;
    chown(path, Some(like.uid()), Some(like.gid()))?;
    // After the owner: changing that takes set-user-ID away (chown(2)).
    fs::set_permissions(path, fs::Permissions::from_mode(like.mode() & 0o7777))?;
    Ok(())
}
