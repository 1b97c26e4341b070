//! Devices of a machine for the directories and files of a layout.

use std::path::Path;

use guest_init::config::Staged;

use super::transport::{FileTransport, Transports, for_guest};
use crate::domain::qemu::{ShareDevice, Transport};
use crate::driver::build::FileCopy;
use crate::error::Result;
use crate::guest::PRIVATE_DIRS;
use crate::guest::layout::{Layout, Share, ShareKind};
use crate::sys::path::below;

/// Name of the directory of copies of single files, in that of the sandbox.
const COPIES: &str = "copied";

/// Devices of a machine, where its guest mounts them, and what has to be copied for them.
#[derive(Debug, Default)]
pub(in crate::driver) struct Devices {
    /// The devices.
    pub shares: Vec<ShareDevice>,
    /// Their mounts in the guest's staging root.
    pub staged: Vec<Staged>,
    /// Copies of single files.
    pub copies: Vec<FileCopy>,
}

impl Devices {
    /// Returns the devices for the shares of `layout`, with copies in the directory `stage` of the sandbox.
    ///
    /// # Errors
    /// Where a share has no way into the machine; the message says why.
    pub fn new(layout: &Layout, transports: &Transports<'_>, stage: &Path) -> Result<Self> {
        let mut devices = Self::default();
        for (index, share) in layout.shares.iter().enumerate() {
            let Share {
                source,
                staged,
                read_only,
                kind,
            } = share;
            match kind {
                ShareKind::Directory => {
                    devices.add(transports.of_directory(source, *read_only)?, source, staged);
                }
                ShareKind::PrivateDirectory => {
                    let transport = transports.of_private_directory(source, *read_only)?;
                    devices.add(transport, source, staged);
                }
                ShareKind::Tree => {
                    // Each on its own: the top of the tree has the mark that says whose it is.
                    for dir in PRIVATE_DIRS.map(Path::new) {
                        let source = below(source, dir);
                        let transport = transports.with_owners(&source)?;
                        devices.add(transport, &source, &below(staged, dir));
                    }
                }
                ShareKind::File => match transports.of_file(source, *read_only)? {
                    FileTransport::Itself(transport) => devices.add(transport, source, staged),
                    FileTransport::Copy(transport) => {
                        let directory = stage.join(COPIES).join(index.to_string());
                        devices.add(transport, &directory, staged);
                        devices.copies.push(FileCopy {
                            source: source.clone(),
                            directory,
                        });
                    }
                },
            }
        }
        Ok(devices)
    }

    fn add(&mut self, transport: Transport, source: &Path, staged: &Path) {
        let tag = format!("share{}", self.shares.len());
        self.staged.push(Staged::Share {
            transport: for_guest(&transport),
            tag: tag.clone(),
            path: staged.to_owned(),
            read_only: transport.is_read_only(),
        });
        self.shares.push(ShareDevice {
            tag,
            source: source.to_owned(),
            transport,
        });
    }
}
