//! Sandboxes in virtual machines: the host's directories are devices of the machine, which the guest mounts.

mod build;
mod channel;
pub(super) mod defined_shares;
pub mod emulation;
mod guest;
mod limits;
mod shares;
pub mod transport;
mod tunnel;
mod vhost_user;

use std::path::Path;
use std::time::Duration;

use guest_init::config::GuestConfig;

pub use self::build::Sockets;
pub(super) use self::build::build;
pub(super) use self::guest::Machine;
pub(super) use self::limits::limit;
use self::transport::Transports;
use crate::config::{Confinement, KernelRequest, SandboxConfig};
use crate::domain::Domain;
use crate::domain::qemu::{self, Authority, Emulation, Transport};
use crate::driver::SharedDirectory;
use crate::error::{Error, Result};
use crate::guest::kernel::{self, Kernel};
use crate::guest::layout::Layout;
use crate::label::selinux;
use crate::sys::file::private;

/// Name of the file in a service's directory that has the output of the guest's console.
const LOG: &str = "guest.log";

/// Time that an answer may take from a machine that is up: an emulated one on a busy host is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Refuses a configuration of a service that no machine can have. What depends on the kernel is checked when the machine is built.
pub(super) fn check(config: &SandboxConfig) -> Result<()> {
    if let Some(device) = config.devices.first() {
        return Err(Error::refused(format!(
            "the device '{device}': a virtual machine has those of its own kernel; leave it out, or use a container"
        )));
    }
    let confinement = Confinement::of_service(config);
    confinement.check_machine()?;
    qemu::check_domain(&Domain::of_service(config), Authority::Root)
}

/// Labels the files that virtiofsd has made in a service's tree: they have the type of the tree, but not its categories, since
/// virtiofsd has none itself.
pub(super) fn relabel(config: &SandboxConfig) {
    if config.image.is_some() {
        return;
    }
    if let Err(error) = selinux::label_as_top(&config.path) {
        log::warn!("labelling what '{}' has made: {error}", config.name);
    }
}

/// Makes the directory of a service.
pub(super) fn make_stage(stage: &Path) -> Result<()> {
    // Passed through by QEMU, which runs as another user.
    private::directory(stage, 0o711).map_err(Error::io("creating", stage))?;
    // libvirt opens the sockets for it: who can connect to them is root inside.
    let sockets = channel::directory(stage);
    private::directory(&sockets, 0o700).map_err(Error::io("creating", &sockets))
}

/// Writes the files that a service's machine boots from, with its config in them: so it finds that also when it reboots. The
/// config has secrets, so `reader`, who runs QEMU, reads it alone, and it is emptied once QEMU has it.
pub(super) fn copy_boot_files(
    boot: &kernel::Boot,
    to: &Path,
    reader: Option<(u32, u32)>,
    guest: &GuestConfig,
) -> Result<kernel::Boot> {
    let text = serde_json::to_vec(guest).map_err(Error::step("writing the guest config"))?;
    let copies = boot.copy_to(to, reader, &kernel::archive_of("guest.json", &text))?;
    selinux::share_with_machines(to);
    Ok(copies)
}

/// Returns the time from the start of a machine until its systemd begins.
pub(super) fn boot_time() -> Result<Duration> {
    Ok(Duration::from_secs(match emulation::of_services()? {
        Emulation::Kvm => 30,
        Emulation::Tcg => 180,
    }))
}

/// Returns why the tree of a machine with this kernel has to be in an image; `None` if a directory keeps its owners.
pub(super) fn needs_image(root: &Path, kernel: &KernelRequest) -> Result<Option<String>> {
    let kernel = Kernel::find(root, kernel)?;
    Transports::of_host(&kernel, Authority::Root)?.no_owners()
}

/// Returns the directories of the host that a service has.
pub(super) fn shared_directories(
    config: &SandboxConfig,
    layout: &Layout,
    root: &Path,
) -> Result<Vec<SharedDirectory>> {
    let kernel = Kernel::find(root, &config.kernel)?;
    let transports = Transports::of_host(&kernel, Authority::Root)?;
    let devices = shares::Devices::new(layout, &transports, root)?;
    let directories = devices.shares.into_iter().map(|share| SharedDirectory {
        source: share.source,
        read_only: share.transport.is_read_only(),
        how: match share.transport {
            Transport::Plan9 {
                read_only: true, ..
            } => {
                "9p, owners as on the host; read by QEMU as the user that libvirt runs it as, which refuses to write"
            }
            Transport::Plan9 { .. } => {
                "9p, owners as on the host; written by QEMU as the user that libvirt runs it as"
            }
            Transport::Virtiofs {
                read_only: true, ..
            } => {
                "virtiofs, owners as on the host; read by a virtiofsd of root's, whose mounts are read-only"
            }
            Transport::Virtiofs { .. } => {
                "virtiofs, owners as on the host; written by a virtiofsd of root's"
            }
        },
    });
    let images = layout.images.iter().map(|image| SharedDirectory {
        source: image.source.clone(),
        read_only: image.read_only,
        how: "virtio disk, owners in its filesystem; mounted by the machine's kernel, and by nothing of the host meanwhile",
    });
    Ok(directories.chain(images).collect())
}

#[cfg(test)]
mod tests;
