//! Overlays over directories that cannot be written, or must not be.

use std::cell::Cell;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::mounts::{restrictions_of, tmpfs};
use super::{held, open_directory};
use crate::sys::mountinfo::{self, Mount};

/// What the table of mounts shows as the source of our overlays.
const NAME: &str = "virt-sandbox";

/// A tmpfs that takes what is written to overlays. It is mounted where the new root will be, so that the root covers
/// it, and it goes with the staging root: an overlay keeps hold of what it uses.
#[derive(Debug)]
pub struct Scratch {
    directory: OwnedFd,
    used: Cell<u32>,
}

impl Scratch {
    /// Mounts it at `path`.
    pub fn mount(path: &Path) -> Result<Self> {
        tmpfs(path, 0o700, None)?;
        Ok(Self {
            directory: open_directory(path)?,
            used: Cell::new(0),
        })
    }

    /// A path in it that nothing else uses.
    pub fn fresh(&self) -> PathBuf {
        let number = self.used.replace(self.used.get() + 1);
        held(&self.directory).join(number.to_string())
    }

    /// Lays a writable overlay over a directory; what is mounted below stays.
    pub fn cover(&self, directory: &Path) -> Result<()> {
        let doing = || format!("laying an overlay over '{}'", directory.display());
        if directory == Path::new("/") {
            // path_resolution(7): a mount over the root is not seen by those whose root it is.
            bail!("laying an overlay over '/': it is the root already");
        }
        let lower = open_directory(directory)?;
        let places = mountinfo::places_on(&table()?, mount_id(&lower)?, directory);
        let held_places: Vec<(PathBuf, OwnedFd)> = places
            .into_iter()
            .map(|place| {
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = open(&place, flags, Mode::empty())
                    .with_context(|| format!("opening '{}'", place.display()))?;
                Ok((place, file))
            })
            .collect::<Result<_>>()?;

        let layer = self.fresh();
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&work).with_context(doing)?;
        fs::create_dir(&upper).with_context(doing)?;
        // The root of an overlay is that of the upper layer.
        let of_lower = fs::metadata(directory).with_context(doing)?;
        chown(&upper, Some(of_lower.uid()), Some(of_lower.gid())).with_context(doing)?;
        let mode = fs::Permissions::from_mode(of_lower.mode() & 0o7777);
        fs::set_permissions(&upper, mode).with_context(doing)?;

        // Paths through files that are held have nothing in them that would need to be escaped. The rest is off
        // because the layers do not outlive the overlay, except that directories can be renamed, and that all of it is
        // one device with lasting numbers of files (`xino`): `tar --one-file-system` would leave out all files.
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=on,xino=on",
            held(&lower).display(),
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
            mount(Some(&held(&file)), &place, none, MsFlags::MS_MOVE, none)
                .with_context(|| format!("moving '{}' onto an overlay", place.display()))?;
        }
        Ok(())
    }

    /// Has `work` done in `directory`, which can be written meanwhile, and seals it again.
    pub fn open_up(&self, directory: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let id = mount_id(&open_directory(directory)?)?;
        let of_ours = table()?.into_iter().find(|mount| mount.id == id);
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
        // What is written here would be lost, which nobody expects who did not ask for it.
        seal(&overlay)
    }
}

/// Makes one mount read-only.
pub fn seal(mount_point: &Path) -> Result<()> {
    remount(mount_point, MsFlags::MS_RDONLY)
}

fn remount(mount_point: &Path, access: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NODEV;
    let flags = flags | access | restrictions_of(mount_point)?;
    let none = None::<&str>;
    mount(none, mount_point, none, flags, none).with_context(|| {
        let what = match access.contains(MsFlags::MS_RDONLY) {
            true => "read-only",
            false => "writable",
        };
        format!("making '{}' {what}", mount_point.display())
    })
}

/// The mounts there are, as the calling thread sees them.
pub fn table() -> Result<Vec<Mount>> {
    let path = "/proc/thread-self/mountinfo";
    let text = fs::read_to_string(path).with_context(|| format!("reading '{path}'"))?;
    Ok(mountinfo::mounts(&text).collect())
}

/// The mount that an open file is on (`proc_pid_fdinfo(5)`).
fn mount_id(file: &OwnedFd) -> Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("reading '{path}'"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .with_context(|| format!("reading '{path}': no mount"))
}
