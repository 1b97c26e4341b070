//! From the description of a sandbox to the documents that it starts from.

use std::path::{Path, PathBuf};

use guest_init::config::{Credential, File, GuestConfig, Nic, Payload, Platform, StaticUnits};

use crate::config::{Confinement, KernelRequest};
use crate::domain::qemu::Emulation;
use crate::domain::{BlockDevice, Domain};
use crate::guest::ids::Registry;
use crate::guest::kernel;
use crate::guest::layout::Layout;
use crate::host::HostFacts;

/// Specification of a sandbox, as `run` or a service's configuration has it. The same for every driver.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The domain, without what the driver adds.
    pub domain: Domain,
    /// Layout of its root.
    pub layout: Layout,
    /// Host name inside.
    pub hostname: &'a str,
    /// Whether the guest shows its steps.
    pub debug: bool,
    /// Confinement of root inside.
    pub confinement: &'a Confinement,
    /// The kernel of a virtual machine.
    pub kernel: &'a KernelRequest,
    /// Emulation of a virtual machine, if the user knows better than the host's facts.
    pub emulation: Option<Emulation>,
    /// NICs as the guest sees them.
    pub nics: Vec<Nic>,
    /// Files that the guest writes below `/run`.
    pub files: Vec<File>,
    /// Credentials of the payload.
    pub credentials: Vec<Credential>,
    /// Static units of `/usr` that stay.
    pub static_units: Option<StaticUnits>,
    /// The first program, or the command.
    pub payload: Payload,
}

/// Places and facts of the host that a sandbox is built with.
#[derive(Debug)]
pub struct BuildContext<'a> {
    /// Facts of the host.
    pub facts: &'a HostFacts,
    /// guest-init.
    pub init: &'a Path,
    /// A directory of the sandbox's own: the staging root of a container, sockets and boot files of a machine.
    pub stage: &'a Path,
    /// The directory that notes which ids are the sandbox's.
    pub record: &'a Path,
    /// Ids of all sandboxes.
    pub registry: &'a Registry,
    /// Whether a machine has its boot files. Without them it cannot be started.
    pub has_boot_files: bool,
    /// Whether ids are claimed, or only looked up.
    pub claims_ids: bool,
    /// Block devices of a container: of the layout's images, then of its disks. A machine opens the files itself.
    pub devices: Vec<BlockDevice>,
    /// Templates of the admin.
    pub templates: &'a Path,
    /// The cache of what machines boot from.
    pub cache: &'a Path,
}

/// Documents of a sandbox that can be started, and the files that it needs before that.
#[derive(Debug)]
pub struct Boot {
    /// The domain, as libvirt takes it.
    pub xml: String,
    /// The guest's config.
    pub guest: GuestConfig,
    /// Files of a virtual machine; `None` for a container.
    pub machine: Option<MachineFiles>,
}

/// Files that a virtual machine starts from.
#[derive(Debug)]
pub struct MachineFiles {
    /// Kernel and initramfs in the cache, shared by machines.
    pub boot: kernel::Boot,
    /// Copies of single files.
    pub copies: Vec<FileCopy>,
    /// Emulation of the machine.
    pub emulation: Emulation,
}

/// A copy of a file of the host, made at the start.
#[derive(Debug)]
pub struct FileCopy {
    /// The file.
    pub source: PathBuf,
    /// The directory of the copy, which has its name.
    pub directory: PathBuf,
}

impl Spec<'_> {
    /// Returns the part of the guest's config that is the same for every driver.
    pub(super) fn guest_config(&self, platform: Platform) -> GuestConfig {
        let layout = &self.layout;
        GuestConfig {
            debug: self.debug,
            root: layout.root.clone(),
            mounts: layout.mounts.clone(),
            user_mounts: layout.user_mounts.clone(),
            includes: layout.includes.clone(),
            files: self.files.clone(),
            credentials: self.credentials.clone(),
            static_units: self.static_units.clone(),
            network: self.nics.clone(),
            ..GuestConfig::new(
                self.domain.name.as_str(),
                self.hostname,
                platform,
                self.payload.clone(),
            )
        }
    }

    /// Returns the device of the shell that waits on the second console, if there is one.
    pub(super) fn shell(&self, device: &str) -> Option<PathBuf> {
        (self.domain.consoles > 0).then(|| device.into())
    }
}
