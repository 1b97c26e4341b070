//! Overlays over directories that cannot or must not be written.

use std::cell::Cell;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::mount_ops::{make_read_only, mount_tmpfs, read_mounts, remount, restrictions_of};
use super::path::{fd_path, open_directory};
use crate::sys::mountinfo;

/// Source of our overlays in the table of mounts.
const NAME: &str = "virt-sandbox";

/// A tmpfs with the upper layers of overlays. It is mounted where the new root will be, so the root covers it, and it goes with the
/// staging root: an overlay keeps its layers alive.
#[derive(Debug)]
pub struct Scratch {
    directory: OwnedFd,
    used: Cell<u32>,
}

impl Scratch {
    pub fn mount(path: &Path) -> Result<Self> {
        mount_tmpfs(path, 0o700, None)?;
        Ok(Self {
            directory: open_directory(path)?,
            used: Cell::new(0),
        })
    }

    /// Returns an unused path.
    pub fn new_path(&self) -> PathBuf {
        let number = self.used.replace(self.used.get() + 1);
        fd_path(&self.directory).join(number.to_string())
    }

    /// Mounts a writable overlay over a directory. Mounts below it stay.
    pub fn cover(&self, directory: &Path) -> Result<()> {
        let doing = || format!("laying an overlay over '{}'", directory.display());
        if directory == Path::new("/") {
            // Processes whose root is covered do not see the new mount (path_resolution(7)).
            bail!("laying an overlay over '/': it is the root already");
        }
        let lower = open_directory(directory)?;
        let places = mountinfo::places_on(&read_mounts()?, mount_id(&lower)?, directory);
        let held_places: Vec<(PathBuf, OwnedFd)> = places
            .into_iter()
            .map(|place| {
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = open(&place, flags, Mode::empty())
                    .with_context(|| format!("opening '{}'", place.display()))?;
                Ok((place, file))
            })
            .collect::<Result<_>>()?;

        let layer = self.new_path();
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&work).with_context(doing)?;
        fs::create_dir(&upper).with_context(doing)?;
        // The root directory of an overlay has the owner and mode of the upper layer.
        let of_lower = fs::metadata(directory).with_context(doing)?;
        chown(&upper, Some(of_lower.uid()), Some(of_lower.gid())).with_context(doing)?;
        let mode = fs::Permissions::from_mode(of_lower.mode() & 0o7777);
        fs::set_permissions(&upper, mode).with_context(doing)?;

        // Paths of open files need no escapes. `index` and `metacopy` are for layers that outlive the overlay. `redirect_dir` lets
        // directories be renamed. `xino` makes all files one device: `tar --one-file-system` would leave out all files.
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=on,xino=on",
            fd_path(&lower).display(),
            upper.display(),
            work.display()
        );
        let flags = MsFlags::MS_NODEV | restrictions_of(directory)?;
        mount(
            Some(NAME),
            directory,
            Some("overlay"),
            flags,
            Some(options.as_str()),
        )
        .with_context(doing)?;
        for (place, file) in held_places {
            let none = None::<&str>;
            mount(Some(&fd_path(&file)), &place, none, MsFlags::MS_MOVE, none)
                .with_context(|| format!("moving '{}' onto an overlay", place.display()))?;
        }
        Ok(())
    }

    /// Calls `work` while `directory` is writable, and makes it read-only again.
    pub fn with_writable(&self, directory: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let id = mount_id(&open_directory(directory)?)?;
        let of_ours = read_mounts()?.into_iter().find(|mount| mount.id == id);
        let of_ours = of_ours.filter(|mount| mount.source == NAME);
        let overlay = match of_ours {
            Some(mount) => {
                remount(&mount.point, MsFlags::empty())?;
                mount.point
            }
            None => {
                self.cover(directory)?;
                directory.to_owned()
            }
        };
        work()?;
        // Later writes would be lost without notice.
        make_read_only(&overlay)
    }
}

/// Reads the id of the mount that an open file is on (`proc_pid_fdinfo(5)`).
fn mount_id(file: &OwnedFd) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("reading '{path}'"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .with_context(|| format!("reading '{path}': no mount"))
}
