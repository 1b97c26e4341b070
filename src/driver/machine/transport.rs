//! Transports that take directories and files of the host into a machine: 9p and virtiofs.

use std::fs;
use std::path::{Path, PathBuf};

use guest_init::config as guest;

use super::vhost_user;
use crate::domain::qemu::{Authority, Transport};
use crate::error::{Error, Result};
use crate::guest::kernel::Kernel;
use crate::hypervisor::libvirt;
use crate::sys::mount::read_only;
use crate::sys::process::command;

/// First version of libvirt that starts a virtiofsd for an ordinary user.
const VIRTIOFS_FOR_USERS: u32 = 10;

/// Name of the program of ours that becomes a virtiofsd with read-only mounts.
pub const READER: &str = "virt-sandbox-virtiofsd";

/// Name of the program of ours that becomes a virtiofsd that can write to a single file.
pub const FILE_WRITER: &str = "virt-sandbox-virtiofsd-file";

/// Reason why the host cannot share something over one of the transports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Transports into a machine with a kernel.
#[derive(Debug)]
pub struct Transports<'a> {
    /// The guest's kernel.
    pub kernel: &'a Kernel,
    /// User that libvirt's driver runs as.
    pub authority: Authority,
    /// Virtiofsd that libvirt starts for directories that are written to; or why there is none.
    pub writer: std::result::Result<PathBuf, Unavailable>,
    /// Program that libvirt starts as virtiofsd for directories that are only read; or why there is none.
    pub reader: std::result::Result<PathBuf, Unavailable>,
    /// Program that libvirt starts as virtiofsd for single files that are written to; or why there is none.
    pub file_writer: std::result::Result<PathBuf, Unavailable>,
    /// Major version of libvirt.
    pub libvirt_version: u32,
}

impl<'a> Transports<'a> {
    /// Returns the transports of this host for `kernel`, where libvirt's driver runs as `authority`.
    ///
    /// # Errors
    /// Where libvirt does not tell its version.
    pub fn of_host(kernel: &'a Kernel, authority: Authority) -> Result<Self> {
        Ok(Self {
            kernel,
            authority,
            writer: find_virtiofsd(),
            reader: find_own(READER, authority),
            file_writer: find_own(FILE_WRITER, authority),
            libvirt_version: libvirt::library_version()?.major,
        })
    }

    /// Chooses the transport of a directory. The host enforces `read_only`, whatever the guest's kernel does.
    ///
    /// Over 9p QEMU itself reads the files, as whoever it runs as, and refuses to write where it is told to. A virtiofsd
    /// of root's keeps owners as they are; one that is to write nothing has read-only mounts alone.
    ///
    /// # Errors
    /// Where there is no way; the message says why.
    pub fn of_directory(&self, source: &Path, read_only: bool) -> Result<Transport> {
        self.choose(source, read_only, read_only)
    }

    /// Chooses the transport of a directory that not everybody may read. Root's virtual machines prefer virtiofs for it,
    /// also where it is only read: QEMU is not root, and a virtiofsd is.
    ///
    /// # Errors
    /// Where there is no way; the message says why.
    pub fn of_private_directory(&self, source: &Path, read_only: bool) -> Result<Transport> {
        self.choose(source, read_only, false)
    }

    fn choose(&self, source: &Path, read_only: bool, prefers_plan9: bool) -> Result<Transport> {
        let plan9 = self.plan9(read_only)?;
        let virtiofs = self.virtiofs(read_only)?;
        let (first, second) = match prefers_plan9 || self.authority == Authority::User {
            true => (plan9, virtiofs),
            false => (virtiofs, plan9),
        };
        match (first, second) {
            (Ok(transport), _) | (Err(_), Ok(transport)) => Ok(transport),
            (Err(one), Err(other)) => Err(Error::unsupported(format!(
                "sharing '{}' with a virtual machine: {one}, and {other}",
                source.display()
            ))),
        }
    }

    /// Chooses the transport of a single file, without anything that is beside it. The file is a share of its own, which a virtiofsd of
    /// root's shows in a directory with nothing else. 9p knows directories alone: what is only read can be a copy there.
    ///
    /// # Errors
    /// Where there is no way; the message says why.
    pub fn of_file(&self, source: &Path, read_only: bool) -> Result<FileTransport> {
        let refused = |reason: &str| {
            Error::refused(format!(
                "sharing '{}' with a virtual machine: {reason}; share a directory that is made for it",
                source.display()
            ))
        };
        let metadata = fs::metadata(source).map_err(Error::io("looking at", source))?;
        if !metadata.is_file() {
            return Err(refused(
                "it is neither a directory nor a regular file, and belongs to the host's kernel",
            ));
        }
        let program = match read_only {
            true => &self.reader,
            false => &self.file_writer,
        };
        match (self.authority, read_only) {
            (Authority::Root, _) => match self.virtiofs_by(program, read_only)? {
                Ok(transport) => Ok(FileTransport::Itself(transport)),
                Err(reason) => Err(refused(&format!(
                    "a file by itself needs virtiofs, and {reason}"
                ))),
            },
            (Authority::User, true) => match self.plan9(true)? {
                Ok(transport) => Ok(FileTransport::Copy(transport)),
                Err(reason) => Err(refused(&reason.to_string())),
            },
            (Authority::User, false) => Err(refused(
                "only root's virtual machines can write to a file without having its directory (',ro' gives a copy)",
            )),
        }
    }

    /// Chooses the transport of a directory of a service's tree, whose files keep their owners: QEMU is not root, and over 9p could neither give
    /// files to others nor read all of theirs.
    ///
    /// # Errors
    /// Where there is no way; the message says why.
    pub fn with_owners(&self, source: &Path) -> Result<Transport> {
        self.virtiofs(false)?.map_err(|reason| {
            Error::unsupported(format!(
                "sharing '{}' with a virtual machine with its owners: {reason}; export the sandbox, delete it and import \
                 it again to have its tree in an image",
                source.display()
            ))
        })
    }

    /// Returns why no directory gets into the guest with its owners; `None` if one can.
    ///
    /// # Errors
    /// Where the lists of the kernel's modules cannot be read.
    pub fn no_owners(&self) -> Result<Option<String>> {
        Ok(self.virtiofs(false)?.err().map(|reason| reason.to_string()))
    }

    /// Chooses 9p if the kernel has it. libvirt's domain capabilities name the driver 'path' also for a QEMU without 9p, so only the
    /// kernel is asked.
    fn plan9(&self, read_only: bool) -> Result<std::result::Result<Transport, Unavailable>> {
        let release = &self.kernel.release;
        Ok(
            if self.kernel.has("9p")? && self.kernel.has("9pnet_virtio")? {
                // Whoever QEMU runs as, it cannot give files to others, and need not.
                Ok(Transport::Plan9 {
                    squash: true,
                    read_only,
                })
            } else {
                Err(Unavailable(format!(
                    "the kernel {release} has no 9p (choose one that has, such as linux-image-amd64, with --kernver)"
                )))
            },
        )
    }

    fn virtiofs(&self, read_only: bool) -> Result<std::result::Result<Transport, Unavailable>> {
        let program = match read_only {
            true => &self.reader,
            false => &self.writer,
        };
        self.virtiofs_by(program, read_only)
    }

    fn virtiofs_by(
        &self,
        program: &std::result::Result<PathBuf, Unavailable>,
        read_only: bool,
    ) -> Result<std::result::Result<Transport, Unavailable>> {
        let release = &self.kernel.release;
        if !self.kernel.has("virtiofs")? {
            return Ok(Err(Unavailable(format!(
                "the kernel {release} has no virtiofs"
            ))));
        }
        if self.authority == Authority::User && self.libvirt_version < VIRTIOFS_FOR_USERS {
            return Ok(Err(Unavailable(format!(
                "libvirt {} shares with virtiofs for root only (from {VIRTIOFS_FOR_USERS} on, for users)",
                self.libvirt_version
            ))));
        }
        Ok(program.clone().map(|binary| Transport::Virtiofs {
            binary,
            // A root that is the kernel's first one cannot be left by pivot_root(2), which is the other way.
            chroot: true,
            read_only,
        }))
    }
}

/// Transport of a single file.
#[derive(Debug)]
pub enum FileTransport {
    /// The file itself, as a share of its own.
    Itself(Transport),
    /// A copy of the file, in a directory that is shared.
    Copy(Transport),
}

/// Finds the virtiofsd of this host, or says why there is none.
///
/// # Errors
/// Names the places where one is described.
pub fn find_virtiofsd() -> std::result::Result<PathBuf, Unavailable> {
    vhost_user::find_virtiofsd(Path::new("/")).ok_or_else(|| {
        let places = vhost_user::DIRECTORIES.map(|directory| format!("'/{directory}'"));
        let places = places.join(" and ");
        Unavailable(format!("no file in {places} names a virtiofsd; install it (package 'virtiofsd' on most distributions)"))
    })
}

/// Finds the program of ours with `name` that libvirt starts as virtiofsd, in mounts that keep it from writing to anything else, or why there
/// is none: libvirt 9 cannot tell a virtiofsd to refuse to write.
fn find_own(name: &str, authority: Authority) -> std::result::Result<PathBuf, Unavailable> {
    find_virtiofsd()?;
    if authority == Authority::User {
        return Err(Unavailable(
            "only root's virtiofsd can be kept from writing to it".to_owned(),
        ));
    }
    if !read_only::is_supported() {
        return Err(Unavailable(
            "this host's kernel cannot keep virtiofsd from writing to it (Linux 5.12 can)"
                .to_owned(),
        ));
    }
    let own = command::current_exe()
        .map_err(|error| Unavailable(format!("finding this program: {error}")))?;
    let beside = own.ancestors().skip(1).take(2);
    let places = beside
        .map(|directory| directory.join(name))
        .chain([Path::new("/usr/bin").join(name)]);
    first_file(places).ok_or_else(|| {
        Unavailable(format!("there is no {name}, which keeps virtiofsd from writing to it; install virt-sandbox whole"))
    })
}

fn first_file(mut places: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    places.find(|path| path.is_file())
}

/// Returns a transport as the guest's config has it.
#[must_use]
pub fn for_guest(transport: &Transport) -> guest::Transport {
    match transport {
        Transport::Plan9 { .. } => guest::Transport::Plan9,
        Transport::Virtiofs { .. } => guest::Transport::Virtiofs,
    }
}
