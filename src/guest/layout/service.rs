//! Layout of a service: the host's system directories, a private tree, and nothing else of the host but what its
//! configuration names.

use super::*;
use crate::config::SandboxConfig;
use crate::config::storage::tree_image::TreeFilesystem;
use crate::guest::{PRIVATE, PRIVATE_DIRS, nested};
use crate::host::{HostFacts, SystemDir};
use crate::sys::path::below;

/// Name of the disk that holds the tree.
const TREE: &str = "tree";

impl Layout {
    /// Returns the layout of a service on the host `facts`.
    ///
    /// # Errors
    /// Where the source of a mount is not there, or a mount comes before the one that it is taken from.
    pub fn of_service(
        config: &SandboxConfig,
        facts: &HostFacts,
        single_files: SingleFiles,
    ) -> Result<Self> {
        let mut layout = Self::new(single_files);
        for dir in &facts.system_dirs {
            match dir {
                SystemDir::Directory(path) => {
                    let staged = below(ROOT, path);
                    layout.share_as(ShareKind::Directory, path, &staged, true);
                    layout.mounts.push(bind(staged, path, true));
                }
                SystemDir::Link(path, points_to) => layout.mounts.push(guest::Mount::Symlink {
                    points_to: points_to.clone(),
                    target: path.clone(),
                }),
            }
        }
        layout.add_tree(config);
        layout.mounts.extend(in_memory());
        let mounts = nested::resolve(&config.mounts, Some(&config.path))?;
        layout.add_mounts(mounts.iter(), Path::new(""))?;
        // Mount points that a directory lacks are made in one.
        layout.needs_overlay = !mounts.is_empty();
        for share in &mut layout.shares {
            if share.kind == ShareKind::Directory && !is_public(&share.source) {
                share.kind = ShareKind::PrivateDirectory;
            }
        }
        Ok(layout)
    }

    /// Adds the private tree: a directory of the host, or the filesystem of an image.
    fn add_tree(&mut self, config: &SandboxConfig) {
        match config.image {
            None => self.share_as(ShareKind::Tree, &config.path, Path::new(PRIVATE), false),
            Some(image) => self.images.push(Image {
                name: TREE.to_owned(),
                source: image.file(&config.path),
                format: image.format.format(),
                partition: None,
                filesystem: Some(match image.filesystem {
                    TreeFilesystem::Ext4 => FsType::Ext4,
                    TreeFilesystem::Xfs => FsType::Xfs,
                }),
                backing: false,
                staged: PRIVATE.into(),
                read_only: false,
            }),
        }
        for dir in PRIVATE_DIRS.map(Path::new) {
            self.mounts.push(bind(below(PRIVATE, dir), dir, false));
        }
    }
}

fn bind(staged: PathBuf, target: &Path, read_only: bool) -> guest::Mount {
    guest::Mount::Bind {
        source: guest::Source::Stage(staged),
        target: target.to_owned(),
        read_only,
    }
}

/// Returns the mounts in memory of every service, and the empty directories of a root that units expect to be there (hier(7)),
/// to hide them.
fn in_memory() -> impl Iterator<Item = guest::Mount> {
    let dirs = [("/run", 0o755), ("/tmp", 0o1777)];
    let tmpfs = dirs.into_iter().map(|(target, mode)| guest::Mount::Tmpfs {
        target: target.into(),
        mode,
        size: None,
    });
    let empty = ["/boot", "/media", "/mnt", "/opt"];
    tmpfs.chain(empty.map(|target| guest::Mount::Directory {
        target: target.into(),
    }))
}
