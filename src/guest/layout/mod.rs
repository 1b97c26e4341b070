//! Layout of a sandbox's root: what of the host is staged for the guest, and what the guest makes of it.
//!
//! The same for one-shot sandboxes and services, and for every driver. A driver decides how each [`Share`] and each [`Image`]
//! gets into the staging root.

mod mount;
mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, Access, Root};
use guest_init::sys::filesystem::FsType;
use guest_init::{STAGED_INCLUDES, STAGED_MOUNTS};

use self::mount::MountSource;
use crate::config::{Disk, ImageFormat, Include, Mount};
use crate::domain::qemu::Authority;
use crate::error::{Error, Result};
use crate::sys::path::below;

/// Path of a shared root in the staging root, and of what is shared of the host's root.
pub const ROOT: &str = "/host";

/// Layout of a sandbox's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// State that the root begins in.
    pub root: Root,
    /// Directories and files of the host in the staging root.
    pub shares: Vec<Share>,
    /// Filesystems in images in the staging root.
    pub images: Vec<Image>,
    /// Mounts while the root is made.
    pub mounts: Vec<guest::Mount>,
    /// Mounts that the user asked for, in the finished root.
    pub user_mounts: Vec<guest::Mount>,
    /// Copies in the finished root.
    pub includes: Vec<guest::Include>,
    /// Disks beside the images.
    pub disks: Vec<Disk>,
    /// Directories of the host that are made for the sandbox and go away with it.
    pub temporary: Vec<PathBuf>,
    /// Whether the guest's kernel has to make overlays: for mount points that the root lacks, and for a volatile root.
    pub needs_overlay: bool,
    single_files: SingleFiles,
}

/// Whether a driver can put a single file into the staging root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleFiles {
    /// A file is staged as it is.
    Staged,
    /// A file is staged in a directory that has nothing else.
    InDirectory,
}

/// A directory or file of the host in the staging root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Path in the staging root.
    pub staged: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
    /// Kind of what is shared.
    pub kind: ShareKind,
}

/// Kind of a [`Share`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// A directory with all in it.
    Directory,
    /// A directory with all in it that not everybody on the host may read. Root inside reads it as the host's root does.
    PrivateDirectory,
    /// The private tree of a service: a directory whose files keep their owners.
    Tree,
    /// Anything else, by itself.
    File,
}

/// A filesystem in an image, in the staging root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name of its disk: 1 to 20 letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Absolute path of the image on the host.
    pub source: PathBuf,
    /// Format of the image.
    pub format: ImageFormat,
    /// Number of the partition, if the user named one.
    pub partition: Option<u32>,
    /// Filesystem, if it is known; else the image tells.
    pub filesystem: Option<FsType>,
    /// Whether files that the image names are opened, too.
    pub backing: bool,
    /// Path in the staging root.
    pub staged: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
}

impl Layout {
    /// Returns an empty root, for a driver that stages single files so.
    #[must_use]
    pub fn new(single_files: SingleFiles) -> Self {
        Self {
            root: Root::Empty,
            shares: vec![],
            images: vec![],
            mounts: vec![],
            user_mounts: vec![],
            includes: vec![],
            disks: vec![],
            temporary: vec![],
            needs_overlay: false,
            single_files,
        }
    }

    /// Makes a directory of the host the root, to be read. A volatile root can be changed by the sandbox; the changes are thrown
    /// away.
    ///
    /// # Errors
    /// Where it is no directory, or is not there.
    pub fn set_root(&mut self, source: &Path, volatile: bool) -> Result<()> {
        check_root(source)?;
        self.share_as(ShareKind::Directory, source, Path::new(ROOT), true);
        self.begin_as_tree(true, volatile);
        Ok(())
    }

    /// Makes a mount on `/` the root.
    ///
    /// # Errors
    /// Where it is no directory and no image, or is not there.
    pub fn mount_root(&mut self, mount: &Mount, volatile: bool) -> Result<()> {
        if let Mount::HostBind {
            source: Some(source),
            ..
        } = mount
        {
            check_root(source)?;
        }
        let staged = self.stage(mount, Path::new(ROOT), volatile, None)?;
        let MountSource::InRoot { read_only, .. } = staged else {
            return Err(Error::refused(format!(
                "'{mount}' cannot be the root; use host-bind:/=DIR or host-image:/=IMAGE"
            )));
        };
        self.begin_as_tree(read_only, volatile);
        Ok(())
    }

    fn begin_as_tree(&mut self, read_only: bool, volatile: bool) {
        self.root = Root::Tree {
            source: ROOT.into(),
            access: match (volatile, read_only) {
                (true, _) => Access::Volatile,
                (false, true) => Access::ReadOnly,
                (false, false) => Access::Writable,
            },
        };
    }

    /// Adds the copies of `includes`, on behalf of a hypervisor with this authority.
    ///
    /// # Errors
    /// Where a source is not there.
    pub fn add_includes(&mut self, includes: &[Include], authority: Authority) -> Result<()> {
        for (index, include) in includes.iter().enumerate() {
            let path = &include.source;
            fs::symlink_metadata(path).map_err(Error::io("reading what to include,", path))?;
            // Root's daemon shares the host's root with the rights of another user.
            let is_seen = || authority == Authority::User || is_public_throughout(path);
            let source = match (self.single_files, self.whole_host()) {
                // Each share is a device of a machine.
                (SingleFiles::InDirectory, Some(place)) if is_seen() => below(place, path),
                (single_files, whole_host) => {
                    let staged = Path::new(STAGED_INCLUDES).join(index.to_string());
                    let source = self.share(path, &staged, true)?;
                    if let (SingleFiles::InDirectory, Some(_), Some(share)) =
                        (single_files, whole_host, self.shares.last_mut())
                        && share.kind == ShareKind::Directory
                    {
                        share.kind = ShareKind::PrivateDirectory;
                    }
                    source
                }
            };
            self.includes.push(guest::Include {
                source,
                target: include.target.as_path().to_owned(),
            });
        }
        Ok(())
    }

    /// Returns where the host's root is staged, if it is shared.
    fn whole_host(&self) -> Option<PathBuf> {
        let is_whole = |share: &&Share| share.source == Path::new("/") && share.read_only;
        let share = self.shares.iter().find(is_whole)?;
        Some(share.staged.clone())
    }

    /// Shares `source` at `staged`, and returns its place in the staging root.
    fn share(&mut self, source: &Path, staged: &Path, read_only: bool) -> Result<PathBuf> {
        let is_directory = is_dir(source, "what is mounted")?;
        let (kind, place) = match (is_directory, self.single_files, source.file_name()) {
            (true, ..) => (ShareKind::Directory, staged.to_owned()),
            (false, SingleFiles::InDirectory, Some(name)) => (ShareKind::File, staged.join(name)),
            (false, ..) => (ShareKind::File, staged.to_owned()),
        };
        self.share_as(kind, source, staged, read_only);
        Ok(place)
    }

    fn share_as(&mut self, kind: ShareKind, source: &Path, staged: &Path, read_only: bool) {
        self.shares.push(Share {
            source: source.to_owned(),
            staged: staged.to_owned(),
            read_only,
            kind,
        });
    }
}

/// Returns whether everybody on the host may read a file or list a directory.
fn is_public(path: &Path) -> bool {
    let allows = |path: &Path, bits: u32| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits)
    };
    let bits = if path.is_dir() { 0o005 } else { 0o004 };
    allows(path, bits) && path.ancestors().skip(1).all(|above| allows(above, 0o001))
}

/// Returns whether everybody on the host may read a path and all that is in it.
fn is_public_throughout(path: &Path) -> bool {
    is_public(path)
        && walkdir::WalkDir::new(path).into_iter().all(|found| {
            found.is_ok_and(|found| found.path_is_symlink() || is_public(found.path()))
        })
}

fn check_root(source: &Path) -> Result<()> {
    match is_dir(source, "the root")? {
        true => Ok(()),
        false => Err(Error::refused(format!(
            "the root '{}' is not a directory",
            source.display()
        ))),
    }
}

/// Returns whether `source` is a directory; `what` names it in a message.
fn is_dir(source: &Path, what: &str) -> Result<bool> {
    let metadata = fs::metadata(source).map_err(|error| {
        Error::step(format!("looking at {what}, '{}'", source.display()))(error)
    })?;
    Ok(metadata.is_dir())
}

#[cfg(test)]
mod tests;
