//! Plain QEMU with a decompressed kernel: the lower bound for any sandbox in a guest.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use test_harness::guest::{COMMAND_LINE, DONE, Flavour, Kernel};

use crate::run::{self, Direction};

/// Files of a guest.
#[derive(Debug, Clone)]
pub struct Parts {
    /// ELF `vmlinux`, which QEMU starts through its PVH entry.
    pub kernel: PathBuf,
    /// Initramfs with one program and no modules.
    pub initramfs: PathBuf,
    /// Initramfs with the virtio console's modules, too.
    pub with_console: PathBuf,
    /// Directory that QEMU may write to.
    pub directory: PathBuf,
}

impl Parts {
    /// Makes the files from Debian's generic kernel; the directory removes them on drop.
    pub fn make() -> Result<(Self, TempDir)> {
        let directory = tempfile::Builder::new()
            .prefix("virt-sandbox-bench.")
            .tempdir_in("/var/tmp")
            .context("creating a directory in '/var/tmp'")?;
        let path = directory.path();
        // QEMU does not run as root.
        fs::set_permissions(path, Permissions::from_mode(0o777))
            .context("opening the directory to all")?;
        let kernel = Kernel::find(Flavour::Generic)?;
        let vmlinux = path.join("vmlinux");
        decompress(&kernel.image, &vmlinux)?;
        let parts = Self {
            kernel: vmlinux,
            initramfs: kernel.initramfs(&path.join("plain"), &[])?,
            with_console: kernel
                .initramfs(&path.join("console"), &["virtio_pci", "virtio_console"])?,
            directory: path.to_owned(),
        };
        Ok((parts, directory))
    }

    /// Returns the milliseconds from QEMU's start to its end.
    pub fn time(&self) -> Result<f64> {
        let mut command = self.qemu(&self.initramfs, "");
        command.args(["-serial", "stdio"]);
        run::time(command, DONE)
    }

    /// Returns the MiB/s through a port of a virtio console: unlike its terminal, it loses nothing if
    /// the reader is slow.
    pub fn throughput(&self, way: Direction, mib: usize) -> Result<f64> {
        // End of file on stdin would close the port.
        let (word, device) = match way {
            Direction::In => ("read", "stdio,id=port,signal=off"),
            Direction::Out => ("write", "file,id=port,path=/dev/stdout"),
        };
        let mut command = self.qemu(&self.with_console, &format!("{word} {mib}"));
        command
            .args(["-chardev", device])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=port"]);
        run::throughput(command, way, mib)
    }

    fn qemu(&self, initramfs: &Path, words: &str) -> Command {
        let mut command = run::command(&["qemu-system-x86_64"]);
        command
            .args(["-machine", "pc", "-accel", "tcg", "-m", "256"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &format!("{COMMAND_LINE} -- {words}")]);
        command
    }
}

/// Extracts the vmlinux from a bzImage, as Linux's Documentation/arch/x86/boot.rst describes.
fn decompress(image: &Path, vmlinux: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("reading '{}'", image.display()))?;
    let payload = payload(&bytes).context("the kernel is no bzImage")?;
    if !payload.starts_with(b"\xfd7zXZ") {
        bail!("'{}' is not compressed with XZ", image.display());
    }
    let compressed = vmlinux.with_extension("xz");
    fs::write(&compressed, payload).context("writing the compressed kernel")?;
    let status = Command::new("xz")
        // The length of the kernel follows.
        .args(["--decompress", "--stdout", "--single-stream"])
        .arg(&compressed)
        .stdout(File::create(vmlinux).context("creating 'vmlinux'")?)
        .status()
        .context("running 'xz'")?;
    if !status.success() {
        bail!("decompressing '{}' failed", image.display());
    }
    fs::remove_file(&compressed).context("removing the compressed kernel")
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let begin = setup + number(0x248)?;
    image.get(begin..begin + number(0x24c)?)
}
