//! Boot files of a virtual machine: the host's kernel, unpacked, and an initramfs with guest-init and the modules that it needs.
//!
//! Both are cached: a start that finds them looks at the metadata of a few files and reads none.

mod cache;
mod command_line;
mod decompress;
mod find;
mod image;
mod initramfs;
mod modules;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use command_line::command_line;

use crate::error::{Error, Result};
use crate::sys::file::{atomic, private};
use cache::Entry;
use initramfs::Archive;
use modules::{Index, Module};

/// A kernel that is installed on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Image, as it is installed.
    pub image: PathBuf,
    /// Directory of modules, with `modules.dep`.
    pub modules: PathBuf,
}

impl Kernel {
    /// Returns whether it has a module, as a file or built in.
    pub fn has(&self, module: &str) -> Result<bool> {
        Ok(Index::read_names(&self.modules)?.has(module))
    }
}

/// A feature that a guest's kernel needs, and modules for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// The bus of virtio, PCI or that of IBM Z, and ports of the host on it; every guest has it.
    Console,
    /// Directories of the host over 9p.
    Plan9,
    /// Directories of the host over virtiofs.
    Virtiofs,
    /// Network interfaces, and DHCP on them.
    Network,
    /// Giving memory back.
    Balloon,
    /// The power button, as far as the kernel has it.
    PowerButton,
    /// Disks.
    Block,
    /// Writable directories over read-only ones.
    Overlay,
    /// Disks with ext2, ext3 or ext4.
    Ext4,
    /// Disks with XFS.
    Xfs,
    /// Disks with Btrfs.
    Btrfs,
    /// Disks with SquashFS.
    Squashfs,
    /// Disks with FAT.
    Vfat,
    /// Disks with ISO 9660.
    Iso9660,
}

impl Feature {
    /// Returns the name in the names of cached files.
    fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Plan9 => "9p",
            Self::Virtiofs => "virtiofs",
            Self::Network => "network",
            Self::Balloon => "balloon",
            Self::PowerButton => "power",
            Self::Block => "block",
            Self::Overlay => "overlay",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Vfat => "vfat",
            Self::Iso9660 => "iso9660",
        }
    }

    /// Returns the purpose, for a message.
    fn purpose(self) -> &'static str {
        match self {
            Self::Console => "talking to the host",
            Self::Plan9 => "sharing directories over 9p",
            Self::Virtiofs => "sharing directories over virtiofs",
            Self::Network => "the network",
            Self::Balloon => "giving memory back",
            Self::PowerButton => "the power button",
            Self::Block => "disks",
            Self::Overlay => "overlays",
            Self::Ext4 => "disks with ext4",
            Self::Xfs => "disks with XFS",
            Self::Btrfs => "disks with Btrfs",
            Self::Squashfs => "disks with SquashFS",
            Self::Vfat => "disks with FAT",
            Self::Iso9660 => "disks with ISO 9660",
        }
    }

    /// Returns the modules that it needs, without their dependencies.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Console => &["virtio_console"],
            Self::Plan9 => &["9pnet_virtio", "9p"],
            Self::Virtiofs => &["virtiofs"],
            Self::Network => &["virtio_net", "af_packet"],
            Self::Balloon => &["virtio_balloon"],
            Self::PowerButton => &[],
            Self::Block => &["virtio_blk"],
            Self::Overlay => &["overlay"],
            Self::Ext4 => &["ext4"],
            Self::Xfs => &["xfs"],
            Self::Btrfs => &["btrfs"],
            Self::Squashfs => &["squashfs"],
            Self::Vfat => &["vfat"],
            Self::Iso9660 => &["isofs"],
        }
    }

    /// Returns the modules that it needs on some kernels: those that a kernel loads with modprobe, which the guest does not have.
    fn modules_if_there(self) -> &'static [&'static str] {
        match self {
            // The last two are those of machines without ACPI.
            Self::PowerButton => &["evdev", "button", "gpio_pl061", "gpio_keys"],
            // The character sets that distributions make the default.
            Self::Vfat | Self::Iso9660 => &["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"],
            Self::Console
            | Self::Plan9
            | Self::Virtiofs
            | Self::Network
            | Self::Balloon
            | Self::Block
            | Self::Overlay
            | Self::Ext4
            | Self::Xfs
            | Self::Btrfs
            | Self::Squashfs => &[],
        }
    }
}

/// Directory of root's cache of boot files.
pub const CACHE: &str = "/var/cache/virt-sandbox";

/// Name of the directory with the boot files of one guest, in that of its sandbox.
pub const BOOT_FILES: &str = "boot-files";

/// Returns an archive that adds the file `/NAME` to an initramfs that it is appended to.
#[must_use]
pub fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file(name, 0o600, content);
    archive.finish()
}

/// Kernel and initramfs of a guest: those in the cache, or its own copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel, as an ELF where that is possible.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

impl Boot {
    /// Returns the files in `directory`.
    #[must_use]
    pub fn below(directory: &Path) -> Self {
        Self {
            kernel: directory.join("kernel"),
            initrd: directory.join("initrd"),
        }
    }

    /// Copies both files into `directory`, which is made anew, for one guest: libvirt gives what a guest boots from to the user that
    /// QEMU runs as, who could change it for all guests then. `reader` is that user with its group, if it is not ours. `config` is
    /// added to the initramfs.
    ///
    /// # Errors
    /// Where the cache was changed by somebody else, or the copies cannot be written; nothing is left then.
    pub fn copy_to(
        &self,
        directory: &Path,
        reader: Option<(u32, u32)>,
        config: &[u8],
    ) -> Result<Self> {
        Self::remove(directory)?;
        let mode = if reader.is_some() { 0o711 } else { 0o700 };
        private::directory(directory, mode).map_err(Error::io("creating", directory))?;
        let copies = Self::below(directory);
        let copied = private::copy(&self.kernel, &copies.kernel, reader, &[])
            .map_err(Error::io("writing", &copies.kernel))
            .and_then(|()| {
                private::copy(&self.initrd, &copies.initrd, reader, config)
                    .map_err(Error::io("writing", &copies.initrd))
            });
        match copied {
            Ok(()) => Ok(copies),
            Err(error) => {
                Self::remove(directory)?;
                Err(error)
            }
        }
    }

    /// Returns whether `directory` has an initramfs that is not empty.
    #[must_use]
    pub fn has_content(directory: &Path) -> bool {
        fs::metadata(Self::below(directory).initrd).is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Replaces the copies in `directory` with empty files, once QEMU has read or mapped them: libvirt fails to restore the owner of
    /// files that are not there.
    pub fn empty(directory: &Path) -> Result<()> {
        let copies = Self::below(directory);
        for path in [&copies.kernel, &copies.initrd] {
            atomic::write_unsynced(path, &[], 0o400)?;
        }
        Ok(())
    }

    /// Removes `directory` with the copies, if it is there.
    pub fn remove(directory: &Path) -> Result<()> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("removing", directory)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Makes the boot files of a guest, or finds them in the directory `cache`.
///
/// The initramfs holds `init` as `/init` and the modules of `features` below `/modules`, to be loaded in the order of
/// their names; [`Feature::Console`] is always one of the features.
///
/// # Errors
/// Where the kernel has no module for a feature, where a file cannot be read, or where the cache cannot be written.
pub fn prepare(
    cache: &Path,
    kernel: &Kernel,
    features: &BTreeSet<Feature>,
    init: &Path,
) -> Result<Boot> {
    let mut features = features.clone();
    features.insert(Feature::Console);
    let names: Vec<_> = features.iter().map(|feature| feature.name()).collect();

    let slot = format!("kernel-{}", kernel.release);
    let image = Entry::new(cache, slot, &[&kernel.image])?;
    let slot = format!("initramfs-{}-{}", kernel.release, names.join("+"));
    let dependencies = kernel.modules.join("modules.dep");
    let initramfs = Entry::new(cache, slot, &[&dependencies, init])?;
    Ok(Boot {
        kernel: image.get(|| bootable(&kernel.image))?,
        initrd: initramfs.get(|| make_initramfs(kernel, &features, init))?,
    })
}

/// Returns the kernel in the form that QEMU starts fastest.
fn bootable(image: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image).map_err(unreadable(image))?;
    image::bootable(bytes).map_err(Error::io("unpacking the kernel", image))
}

/// Returns the error of reading a kernel, which only root can do on some distributions.
fn unreadable(image: &Path) -> impl Fn(io::Error) -> Error {
    move |error| {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Error::io("reading", image)(error);
        }
        Error::refused(format!(
            "reading '{}': {error}; have root make it readable, or name a copy with --kernpath",
            image.display()
        ))
    }
}

fn make_initramfs(kernel: &Kernel, features: &BTreeSet<Feature>, init: &Path) -> Result<Vec<u8>> {
    let modules = needed(kernel, &Index::read(&kernel.modules)?, features)?;
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "newroot", "host", "mnt", "modules"] {
        archive.directory(directory);
    }
    // The kernel opens it for init's output before init can make it.
    archive.character_device("dev/console", 5, 1);
    // A kernel whose console comes with a module starts init with no streams at all; a Rust program then opens
    // this for each, or ends.
    archive.character_device("dev/null", 1, 3);
    let program = fs::read(init).map_err(Error::io("reading", init))?;
    archive.file("init", 0o755, &program);
    for (index, module) in modules.iter().enumerate() {
        // Newer files of depmod have absolute paths for modules elsewhere, which `join` keeps.
        let path = kernel.modules.join(&module.file);
        let content = read_module(&path).map_err(Error::io("reading the module", &path))?;
        archive.file(
            &format!("modules/{index:03}-{}.ko", module.name),
            0o644,
            &content,
        );
    }
    Ok(archive.finish())
}

/// Reads a module. A list of modules can name any file of the host, and the guest gets the content: anything but an ELF is refused.
fn read_module(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let content = decompress::unpacked(fs::read(path)?)?;
    match content.starts_with(b"\x7fELF") {
        true => Ok(content),
        false => Err(io::Error::other("it is no module of a kernel")),
    }
}

/// Returns the modules of `features` in the order that they are loaded in.
fn needed(kernel: &Kernel, index: &Index, features: &BTreeSet<Feature>) -> Result<Vec<Module>> {
    let bus = match index.has("virtio_ccw") {
        true => "virtio_ccw",
        false => "virtio_pci",
    };
    let mut wanted = Vec::new();
    for feature in features {
        let needed = match *feature == Feature::Console {
            true => [&[bus], feature.modules()].concat(),
            false => feature.modules().to_vec(),
        };
        if let Err(module) = index.closure(needed.iter().copied()) {
            return Err(Error::refused(format!(
                "kernel {} has no module '{module}', which {} takes: it is neither in '{}' nor built in; \
                 choose another kernel with --kernver, or do without",
                kernel.release,
                feature.purpose(),
                kernel.modules.join("modules.dep").display(),
            )));
        }
        wanted.extend(needed);
        let optional = feature.modules_if_there().iter();
        wanted.extend(optional.filter(|module| index.closure([**module]).is_ok()));
    }
    // Each of them was found above.
    (index.closure(wanted)).map_err(|module| Error::unsupported(module.to_string()))
}

#[cfg(test)]
mod tests;
