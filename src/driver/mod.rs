//! libvirt's drivers: how a sandbox is built and reached with each.
//!
//! A [`Spec`] describes a sandbox, whatever runs it; its [`Driver`] builds the domain and the guest's config from that. A running
//! sandbox is reached through its [`Guest`]. No module above this one knows which driver a service has.

mod build;
pub mod connection;
mod container;
pub mod disks;
mod guest;
mod machine;
mod proc;
mod service;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub use self::build::{Boot, BuildContext, FileCopy, MachineFiles, Spec};
use self::connection::Connection;
pub use self::guest::{Connector, Entrance, Guest, GuestUsage};
pub use self::machine::defined_shares::DefinedShare;
pub use self::machine::{Sockets, emulation, transport};
use self::machine::{defined_shares, transport::Transports};
pub use self::service::{InitUnits, ServiceBuild};
use crate::config::resources::{DEFAULT_CONTAINER_MEMORY, DEFAULT_MACHINE_MEMORY};
use crate::config::{Bytes, KernelRequest, Resources, SandboxConfig};
use crate::domain::qemu::Authority;
use crate::error::{Error, Result};
use crate::guest::kernel::Kernel;
use crate::guest::layout::{Layout, SingleFiles};
use crate::host::{self, HostFacts};
use crate::hypervisor::{DomainState, Limit};
pub use crate::sys::process::enter::ExecOptions;

/// The host's systemd, where every distribution with a merged `/usr` has it, and Debian before that.
const SYSTEMD: &str = "/lib/systemd/systemd";

/// The kernel's weight of CPU time, unless another one is set.
const DEFAULT_SHARES: u64 = 1024;

/// A driver of libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Containers.
    Lxc,
    /// Virtual machines.
    Qemu(Qemu),
}

/// The process that libvirt's driver for virtual machines runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qemu {
    /// Root's daemon, whose QEMU is a user of its own.
    System,
    /// A user's daemon.
    Session,
    /// This process.
    Embedded,
}

/// A directory or image of the host that a sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedDirectory {
    /// Path on the host.
    pub source: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
    /// Mechanism that shares it, and which program or kernel checks owners and access.
    pub how: &'static str,
}

/// Owners of the files of a sandbox's tree, inside and on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owners {
    /// Files have the same ids inside, on the host's disk, and to the host's kernel.
    Passthrough,
    /// Files have the same ids inside and on the host's disk; to the host's kernel, processes have ids of the sandbox's own.
    Idmap,
    /// Files are in the filesystem of an image.
    Image,
}

impl Owners {
    /// Returns an explanation for users.
    #[must_use]
    pub fn explained(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough: those inside are those on the host's disk",
            Self::Idmap => {
                "idmap: those inside are those on the host's disk, and the sandbox acts with ids of its own"
            }
            Self::Image => "image: they are kept in the filesystem of the image",
        }
    }
}

impl Qemu {
    /// Returns the user that libvirt's driver runs as.
    #[must_use]
    pub fn authority(self) -> Authority {
        match self {
            Self::System => Authority::Root,
            Self::Session => Authority::User,
            Self::Embedded if nix::unistd::geteuid().is_root() => Authority::Root,
            Self::Embedded => Authority::User,
        }
    }
}

impl Driver {
    /// Returns the driver of the service whose connection is `uri`.
    ///
    /// # Errors
    /// Where the connection is of another host, or its driver runs no services.
    pub fn of_service(uri: &str) -> Result<Self> {
        match Connection::parse(uri)?.driver {
            driver @ (Self::Lxc | Self::Qemu(Qemu::System)) => Ok(driver),
            Self::Qemu(Qemu::Session | Qemu::Embedded) => Err(Error::refused(format!(
                "'{uri}' has no daemon of the host's that could keep a sandbox; use lxc:/// or qemu:///system"
            ))),
        }
    }

    /// Returns the user that libvirt's driver runs as.
    #[must_use]
    pub fn authority(self) -> Authority {
        match self {
            Self::Lxc => Authority::Root,
            Self::Qemu(daemon) => daemon.authority(),
        }
    }

    /// Returns its name in libvirt.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lxc => "lxc",
            Self::Qemu(_) => "qemu",
        }
    }

    /// Returns the units of the daemons of this host that run it, for units that want them.
    #[must_use]
    pub fn daemon_units(self) -> Vec<String> {
        host::daemons::wanted_units(host::daemons::modular(self.name()))
    }

    /// Returns the name that a container goes by inside (`$container` of systemd); `None` for a virtual machine.
    #[must_use]
    pub fn container(self) -> Option<&'static str> {
        match self {
            Self::Lxc => Some(container::NAME),
            Self::Qemu(_) => None,
        }
    }

    /// Returns whether a sandbox has a kernel of its own, and not the host's. That kernel mounts the image of a tree itself:
    /// while it runs nobody else can.
    #[must_use]
    pub fn has_own_kernel(self) -> bool {
        self.container().is_none()
    }

    /// Returns whether single files can be staged.
    #[must_use]
    pub fn single_files(self) -> SingleFiles {
        match self {
            Self::Lxc => SingleFiles::Staged,
            Self::Qemu(_) => SingleFiles::InDirectory,
        }
    }

    /// Builds the documents of a sandbox, and the files in the cache that it boots from.
    ///
    /// # Errors
    /// Where the driver or the host cannot do what the specification asks for; the message says what to do instead.
    pub fn build(self, spec: &Spec<'_>, context: &BuildContext<'_>) -> Result<Boot> {
        match self {
            Self::Lxc => container::build(spec, context),
            Self::Qemu(daemon) => {
                let kernel = Kernel::find(&context.facts.root, spec.kernel)?;
                let transports = Transports::of_host(&kernel, daemon.authority())?;
                machine::build(spec, context, daemon, &transports)
            }
        }
    }

    /// Refuses a configuration that it cannot run.
    ///
    /// # Errors
    /// Name the option, why it cannot be and what to do instead.
    pub fn check(self, config: &SandboxConfig) -> Result<()> {
        match self {
            Self::Lxc => container::check(config),
            Self::Qemu(_) => machine::check(config),
        }
    }

    /// Returns a handle on a service in this `state`, whose directory is `stage`; `None` if it does not run.
    #[must_use]
    pub fn guest(
        self,
        config: &SandboxConfig,
        stage: &Path,
        state: DomainState,
    ) -> Option<Box<dyn Guest>> {
        let id = state.id()?;
        Some(match self {
            Self::Lxc => Box::new(container::Container::new(&config.name, id, stage)),
            Self::Qemu(_) => Box::new(machine::Machine::new(stage)),
        })
    }

    /// Relabels the tree of a service that has ended. A failure does no harm, and is logged.
    pub fn relabel(self, config: &SandboxConfig) {
        match self {
            Self::Lxc => {}
            Self::Qemu(_) => machine::relabel(config),
        }
    }

    /// Returns the time from the start until systemd begins, beside that of the units.
    ///
    /// # Errors
    /// Where the environment names an emulation that there is not.
    pub fn boot_time(self) -> Result<Duration> {
        match self {
            Self::Lxc => Ok(Duration::ZERO),
            Self::Qemu(_) => machine::boot_time(),
        }
    }

    /// Returns how the files of the tree of a service, whose configuration is in the directory `record`, keep their owners.
    ///
    /// # Errors
    /// Where the configuration names ids that cannot be had.
    pub fn owners(
        self,
        config: &SandboxConfig,
        facts: &HostFacts,
        record: &Path,
    ) -> Result<Owners> {
        if config.image.is_some() {
            return Ok(Owners::Image);
        }
        match self {
            Self::Lxc => {
                let layout = Layout::of_service(config, facts, self.single_files())?;
                container::owners(config, &layout, facts, record)
            }
            Self::Qemu(_) => Ok(Owners::Passthrough),
        }
    }

    /// Returns why the tree of a service with this kernel has to be in an image; `None` if a directory keeps its owners.
    ///
    /// # Errors
    /// Where the kernel's modules cannot be read.
    pub fn needs_image(self, root: &Path, kernel: &KernelRequest) -> Result<Option<String>> {
        match self {
            Self::Lxc => Ok(None),
            Self::Qemu(_) => machine::needs_image(root, kernel),
        }
    }

    /// Returns the directories of the host that a service has, and how each gets into it.
    ///
    /// # Errors
    /// Where one cannot.
    pub fn shared_directories(
        self,
        config: &SandboxConfig,
        facts: &HostFacts,
    ) -> Result<Vec<SharedDirectory>> {
        let layout = Layout::of_service(config, facts, self.single_files())?;
        match self {
            Self::Lxc => Ok(container::shared_directories(&layout, facts)),
            Self::Qemu(_) => machine::shared_directories(config, &layout, &facts.root),
        }
    }

    /// Returns the directories of the host in the document of a defined domain, where the host decides about each whether it is
    /// written to. In a container that is up to its mounts, which are locked.
    #[must_use]
    pub fn defined_shares(self, xml: &str) -> Vec<DefinedShare> {
        match self {
            Self::Lxc => vec![],
            Self::Qemu(_) => defined_shares::of_document(xml),
        }
    }

    /// Returns the most memory that a sandbox may use.
    #[must_use]
    pub fn memory(self, resources: &Resources) -> Bytes {
        resources.memory.unwrap_or(match self {
            Self::Lxc => DEFAULT_CONTAINER_MEMORY,
            Self::Qemu(_) => DEFAULT_MACHINE_MEMORY,
        })
    }

    /// Returns the limit `key` as libvirt changes it while a sandbox runs; `None` if it cannot.
    #[must_use]
    pub fn limit(self, resources: &Resources, key: &str) -> Option<Limit> {
        match (key, self) {
            ("cpu-shares", _) => Some(Limit::CpuShares(
                resources.cpu_shares.unwrap_or(DEFAULT_SHARES),
            )),
            // The usual weight depends on the kernel.
            ("io-weight", _) => resources.io_weight.map(Limit::IoWeight),
            (_, Self::Lxc) => container::limit(resources, key),
            (_, Self::Qemu(_)) => machine::limit(resources, key),
        }
    }

    /// Returns the highest number of processes and threads of a sandbox with these limits on this host.
    #[must_use]
    pub fn pids(self, resources: &Resources) -> u64 {
        match self {
            Self::Lxc => resources.container_pids(host::pid_max()),
            Self::Qemu(_) => resources.machine_pids(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
