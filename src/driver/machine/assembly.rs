//! How the root of a virtual machine is put together from directories of the host.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use guest_init::config as guest;

use crate::config::storage::tree_image::TreeFilesystem;
use crate::config::{Mount, SandboxConfig, TreeImage};
use crate::domain::qemu::{Share, Transport};
use crate::domain::{BlockDevice, BlockKind};
use crate::driver::ability::{Abilities, OfFile, for_guest};
use crate::error::{Error, Result};
use crate::guest::kernel::Feature;
use crate::guest::{PRIVATE, PRIVATE_DIRS, below, bind, link, nested, of_sandbox, temporary};
use crate::host::{HostFacts, SystemDir};

/// Serial of the disk that holds the tree.
const TREE: &str = "tree";

/// What the machine has of the host, and what the guest makes of it.
#[derive(Debug)]
pub struct Assembly {
    /// Devices of the machine.
    pub shares: Vec<Share>,
    /// The disk that holds the tree, if it is in an image.
    pub tree: Option<BlockDevice>,
    /// Where the guest mounts them.
    pub staged: Vec<guest::Staged>,
    /// How it makes its root of that.
    pub mounts: Vec<guest::Mount>,
    /// What it mounts in the finished root.
    pub user_mounts: Vec<guest::Mount>,
    /// What its kernel must be able to do.
    pub features: BTreeSet<Feature>,
}

impl Assembly {
    /// The assembly of a service's sandbox.
    ///
    /// # Errors
    /// Where a directory cannot be shared, or a source of a mount is not there.
    pub fn new(
        config: &SandboxConfig,
        facts: &HostFacts,
        abilities: &Abilities<'_>,
    ) -> Result<Self> {
        let mut assembly = Self {
            shares: vec![],
            tree: None,
            staged: vec![],
            mounts: vec![],
            user_mounts: vec![],
            features: BTreeSet::new(),
        };
        for dir in &facts.system_dirs {
            match dir {
                SystemDir::Directory(path) => {
                    let staged = below("/host", path);
                    assembly.share(abilities, path, &staged, true)?;
                    assembly.mounts.push(bind(staged, path, true));
                }
                SystemDir::Link(path, points_to) => assembly.mounts.push(link(path, points_to)),
            }
        }
        if let Some(image) = config.image {
            assembly.attach(image, &config.path);
        }
        for dir in PRIVATE_DIRS.map(Path::new) {
            let staged = below(PRIVATE, dir);
            // Each on its own: the top of the tree has the mark that says whose it is.
            if config.image.is_none() {
                let source = below(&config.path, dir);
                assembly.add(abilities.with_owners(&source)?, &source, &staged);
            }
            assembly.mounts.push(bind(staged, dir, false));
        }
        assembly.mounts.extend(temporary());
        for (index, mount) in nested::resolve(&config.mounts, Some(&config.path))?
            .iter()
            .enumerate()
        {
            assembly.add_user_mount(abilities, index, mount)?;
        }
        if !config.networks.is_empty() {
            assembly.features.insert(Feature::Network);
        }
        if !config.mounts.is_empty() {
            // Mount points that a directory lacks are made in one.
            assembly.features.insert(Feature::Overlay);
        }
        Ok(assembly)
    }

    fn add_user_mount(
        &mut self,
        abilities: &Abilities<'_>,
        index: usize,
        mount: &Mount,
    ) -> Result<()> {
        let made = match mount {
            Mount::HostBind {
                target,
                source: Some(source),
                read_only,
            } => {
                let staged = Path::new(guest_init::STAGED_MOUNTS).join(index.to_string());
                let metadata = fs::metadata(source).map_err(Error::io("looking at", source))?;
                let place = match source.file_name() {
                    Some(name) if !metadata.is_dir() => {
                        let OfFile::Itself(transport) = abilities.of_file(source, *read_only)?
                        else {
                            return Err(Error::refused(format!(
                                "mounting '{}': a service has no copies of files",
                                source.display()
                            )));
                        };
                        self.add(transport, source, &staged);
                        staged.join(name)
                    }
                    _ => {
                        self.share(abilities, source, &staged, *read_only)?;
                        staged
                    }
                };
                Some(bind(place, target.as_path(), *read_only))
            }
            Mount::HostBind { source: None, .. }
            | Mount::HostImage { .. }
            | Mount::GuestBind { .. }
            | Mount::Ram { .. } => of_sandbox(mount),
        };
        self.user_mounts.extend(made);
        Ok(())
    }

    /// Makes the image of the tree at `path` a disk of the machine, which its kernel mounts.
    fn attach(&mut self, image: TreeImage, path: &Path) {
        self.tree = Some(BlockDevice {
            source: image.file(path),
            kind: BlockKind::File,
            format: image.format.format(),
            backing: false,
            read_only: false,
            serial: TREE.to_owned(),
        });
        self.staged.push(guest::Staged::Image {
            device: guest::BlockDevice::Serial(TREE.to_owned()),
            partition: None,
            path: PRIVATE.into(),
            read_only: false,
        });
        self.features.insert(Feature::Block);
        self.features.insert(match image.filesystem {
            TreeFilesystem::Ext4 => Feature::Ext4,
            TreeFilesystem::Xfs => Feature::Xfs,
        });
    }

    /// Makes a directory of the host a device of the machine, mounted at `staged`.
    fn share(
        &mut self,
        abilities: &Abilities<'_>,
        source: &Path,
        staged: &Path,
        read_only: bool,
    ) -> Result<()> {
        let transport = match is_public(source) {
            true => abilities.transport(source, read_only)?,
            false => abilities.private_transport(source, read_only)?,
        };
        self.add(transport, source, staged);
        Ok(())
    }

    /// Makes a directory of the host a device of the machine, by `transport`.
    fn add(&mut self, transport: Transport, source: &Path, staged: &Path) {
        let is_plan9 = matches!(transport, Transport::Plan9 { .. });
        self.features.insert(match is_plan9 {
            true => Feature::Plan9,
            false => Feature::Virtiofs,
        });
        let tag = format!("share{}", self.shares.len());
        self.staged.push(guest::Staged::Share {
            transport: for_guest(&transport),
            tag: tag.clone(),
            path: staged.to_owned(),
            read_only: transport.is_read_only(),
        });
        self.shares.push(Share {
            tag,
            source: source.to_owned(),
            transport,
        });
    }
}

/// Whether everybody of the host may look into a directory.
fn is_public(path: &Path) -> bool {
    let allows = |path: &Path, bits: u32| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits)
    };
    allows(path, 0o005) && path.ancestors().skip(1).all(|above| allows(above, 0o001))
}
