//! What is particular to each of libvirt's drivers.
//!
//! A sandbox of a service is built, reached and cleaned up after by its [`Keeper`]; what runs it can be reached as [`Inside`].
//! Nothing above this module knows which driver a sandbox of a service has.

pub mod ability;
mod addresses;
pub mod connection;
mod container;
mod inside;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::config as guest_config;
use guest_init::config::Nic;
use serde::Serialize;

use self::connection::{Connection, Driver};
use self::inside::ANSWER;
pub use self::inside::{Activity, Carrier, Inside, Reach};
pub use self::machine::shares::DefinedShare;
use crate::config::resources::{DEFAULT_CONTAINER_MEMORY, DEFAULT_MACHINE_MEMORY};
use crate::config::{Bytes, KernelRequest, Resources, SandboxConfig};
use crate::error::{Error, Result};
use crate::guest::{self, kernel};
use crate::host::{self, HostFacts};
use crate::hypervisor::{DomainState, Hypervisor, Limit};
use crate::label::selinux::{self, Kind};
use crate::label::{self, Given};
pub use crate::sys::process::enter::ExecOptions;

/// What a service wants inside, whatever keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Files written below `/run` before systemd starts.
    pub files: Vec<guest_config::File>,
    /// Credentials that the service gets inside.
    pub credentials: Vec<guest_config::Credential>,
    /// Static boot-time units of `/usr` that stay.
    pub keep_units: Vec<String>,
    /// The unit that systemd boots into.
    pub target: String,
}

/// A directory of the host that a sandbox has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// The directory.
    pub source: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
    /// How it gets there, and who sees to owners and access.
    pub how: &'static str,
}

/// How the files of a sandbox's tree keep their owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owners {
    /// They have the same ids inside, on the host's disk, and to the host's kernel.
    Passthrough,
    /// They have the same ids inside and on the host's disk; to the host's kernel whoever acts has ids of the sandbox's own.
    Idmap,
    /// They are in the filesystem of an image.
    Image,
}

impl Owners {
    /// That in words.
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

/// Places of the host that a sandbox is built with.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// A directory of the sandbox's own, made anew at every start.
    pub stage: &'a Path,
    /// The directory of its configuration, beside those of others.
    pub record: &'a Path,
    /// Templates of the admin.
    pub templates: &'a Path,
    /// The block device of the image that holds the tree, while a sandbox with the host's kernel starts.
    pub device: Option<&'a Path>,
    /// Whether the sandbox is about to start: then all is made that it needs for that, with its secrets.
    pub starts: bool,
    /// The tree, where what is in it may have changed since it was labelled.
    pub changed: Option<&'a Path>,
}

/// The kernel's weight of CPU time where nothing is said.
const DEFAULT_SHARES: u64 = 1024;

/// A driver that keeps sandboxes of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// Containers.
    Containers,
    /// Virtual machines.
    Machines,
}

impl Keeper {
    /// The one behind the connection `uri`.
    ///
    /// # Errors
    /// Where it is of another host, or keeps no sandboxes of services.
    pub fn of(uri: &str) -> Result<Self> {
        match Connection::parse(uri)?.driver {
            Driver::Lxc => Ok(Self::Containers),
            Driver::QemuSystem => Ok(Self::Machines),
            Driver::QemuSession | Driver::QemuEmbedded => Err(Error::refused(format!(
                "'{uri}' has no daemon of the host's that could keep a sandbox; use lxc:/// or qemu:///system"
            ))),
        }
    }

    /// Its name, as libvirt has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Containers => "lxc",
            Self::Machines => "qemu",
        }
    }

    /// What systemd inside takes the container for; `None` where it has a kernel of its own.
    #[must_use]
    pub fn container(self) -> Option<&'static str> {
        match self {
            Self::Containers => Some(container::NAME),
            Self::Machines => None,
        }
    }

    /// Whether what it keeps has a kernel of its own, and not the host's. That one mounts the image of a tree itself: while it
    /// runs nobody else can.
    #[must_use]
    pub fn has_own_kernel(self) -> bool {
        self.container().is_none()
    }

    /// Whether it can keep a sandbox of this configuration.
    ///
    /// # Errors
    /// Names what was asked for, why it cannot be and what to do instead.
    pub fn check(self, config: &SandboxConfig) -> Result<()> {
        match self {
            Self::Containers => container::check(config),
            Self::Machines => machine::check(config),
        }
    }

    /// Makes all that a start needs on the host, and gives the domain as libvirt takes it.
    ///
    /// # Errors
    /// Where something is missing, cannot be written, or a template is wrong.
    pub fn build(
        self,
        config: &SandboxConfig,
        contents: Contents,
        facts: &HostFacts,
        site: Site<'_>,
        hypervisor: &dyn Hypervisor,
    ) -> Result<String> {
        match self {
            Self::Containers => container::build(config, contents, facts, site, hypervisor),
            Self::Machines => machine::build(config, contents, facts, site, hypervisor),
        }
    }

    /// The way into a sandbox in this `state`, whose directory is `stage`; `None` where it does not run.
    #[must_use]
    pub fn inside(
        self,
        config: &SandboxConfig,
        stage: &Path,
        state: DomainState,
    ) -> Option<Box<dyn Inside>> {
        let id = state.id()?;
        Some(match self {
            Self::Containers => Box::new(container::Container::new(&config.name, id, stage)),
            Self::Machines => Box::new(machine::Machine::new(stage)),
        })
    }

    /// Forgets the secrets in what a sandbox, whose directory is `stage`, has read at its start.
    ///
    /// # Errors
    /// Where its directory cannot be written.
    pub fn empty_boot_files(self, stage: &Path) -> Result<()> {
        match self {
            Self::Containers => Ok(()),
            Self::Machines => kernel::Boot::empty(&stage.join(kernel::COPIES)),
        }
    }

    /// Sets right what a sandbox that has ended has left in its tree. That fails without harm, and is said.
    pub fn settle(self, config: &SandboxConfig) {
        match self {
            Self::Containers => {}
            Self::Machines => machine::settle(config),
        }
    }

    /// How long it may take from the start until systemd begins, beside what units may take.
    ///
    /// # Errors
    /// Where the environment asks for what there is not.
    pub fn boot_time(self) -> Result<Duration> {
        match self {
            Self::Containers => Ok(Duration::ZERO),
            Self::Machines => machine::boot_time(),
        }
    }

    /// How the files of the tree of a sandbox, whose configuration is in the directory `record`, keep their owners.
    ///
    /// # Errors
    /// Where ids are asked for that cannot be had.
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
            Self::Containers => container::owners(config, facts, record),
            Self::Machines => Ok(Owners::Passthrough),
        }
    }

    /// Why the tree of a sandbox with this kernel has to be in an image; `None` where a directory keeps its owners.
    ///
    /// # Errors
    /// Where that cannot be told.
    pub fn needs_image(self, kernel: &KernelRequest) -> Result<Option<String>> {
        match self {
            Self::Containers => Ok(None),
            Self::Machines => machine::needs_image(kernel),
        }
    }

    /// How the directories of the host get into a sandbox.
    ///
    /// # Errors
    /// Where one cannot.
    pub fn sharing(self, config: &SandboxConfig, facts: &HostFacts) -> Result<Vec<Shared>> {
        match self {
            Self::Containers => container::sharing(config, facts),
            Self::Machines => machine::sharing(config, facts),
        }
    }

    /// Most memory that a sandbox may use.
    #[must_use]
    pub fn memory(self, resources: &Resources) -> Bytes {
        resources.memory.unwrap_or(match self {
            Self::Containers => DEFAULT_CONTAINER_MEMORY,
            Self::Machines => DEFAULT_MACHINE_MEMORY,
        })
    }

    /// The directories of the host that the sandbox of a domain's document has, where the host decides about each what may be done in
    /// it. In a container that is up to its mounts, which are locked.
    #[must_use]
    pub fn defined_shares(self, xml: &str) -> Vec<DefinedShare> {
        match self {
            Self::Containers => vec![],
            Self::Machines => machine::shares::of_document(xml),
        }
    }

    /// The limit `key` as libvirt changes it while a sandbox runs; `None` where it does not.
    #[must_use]
    pub fn limit(self, resources: &Resources, key: &str) -> Option<Limit> {
        match (key, self) {
            ("cpu-shares", _) => Some(Limit::CpuShares(
                resources.cpu_shares.unwrap_or(DEFAULT_SHARES),
            )),
            // What is usual depends on the kernel.
            ("io-weight", _) => resources.io_weight.map(Limit::IoWeight),
            (_, Self::Containers) => container::limit(resources, key),
            (_, Self::Machines) => machine::limit(resources, key),
        }
    }

    /// Highest number of processes and threads of a sandbox with these limits on this host.
    #[must_use]
    pub fn pids(self, resources: &Resources) -> u64 {
        match self {
            Self::Containers => resources.container_pids(host::pid_max()),
            Self::Machines => resources.machine_pids(),
        }
    }
}

/// The security label of a sandbox, which its files have when this returns.
fn labelled(
    config: &SandboxConfig,
    kind: Kind,
    site: &Site<'_>,
    hypervisor: &dyn Hypervisor,
) -> Result<Given> {
    let model = label::model(&hypervisor.capabilities()?);
    let services = site.record.parent().unwrap_or(Path::new(guest::SERVICES));
    let sandbox = label::Sandbox {
        name: &config.name,
        uuid: config.uuid,
        kind,
        record: site.record,
        records: &[services, Path::new(guest::RUNTIME)],
        templates: site.templates,
        file_type: config.file_type.as_ref(),
    };
    let given = label::give(config.security.as_ref(), model, &sandbox)?;
    if let Some(files) = &given.files {
        match (site.changed, config.image) {
            (Some(tree), _) => selinux::label(tree, files)?,
            // It is not mounted here.
            (None, Some(_)) => {}
            (None, None) => match kind {
                Kind::Container => selinux::label_if_changed(&config.path, files)?,
                // One that was not stopped, but ended, has left files without its categories.
                Kind::Machine { .. } => selinux::label(&config.path, files)?,
            },
        }
        if site.changed.is_some() && config.image.is_none() {
            selinux::remember(&config.path, files);
        }
    }
    Ok(given)
}

/// The NICs as the guest is told of them, with addresses that the servers of libvirt's networks may well give.
fn nics(config: &SandboxConfig, hypervisor: &dyn Hypervisor) -> Result<Vec<Nic>> {
    let mut nics = guest::nics(&config.networks);
    for (nic, network) in nics.iter_mut().zip(&config.networks) {
        if let Some(source) = network.container_network() {
            nic.hint = hypervisor.likely_address(source, &config.uuid)?;
        }
    }
    Ok(nics)
}

/// What a message calls a command.
fn program<'a>(command: &[&'a str]) -> &'a Path {
    Path::new(command.first().copied().unwrap_or_default())
}

/// Whether a process is there and not a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    // The state follows the name, which has brackets around it and may have some of its own.
    stat.as_deref()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1))
        .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Bytes received and sent of all NICs but the loopback: the first and the ninth number of `/proc/net/dev`.
fn parse_net_dev(text: &str) -> (u64, u64) {
    let numbers = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest
            .split_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        (name.trim() != "lo").then_some((*numbers.first()?, *numbers.get(8)?))
    });
    // The kernel of a virtual machine says what it likes.
    numbers.fold((0, 0), |sum: (u64, u64), one| {
        (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
    })
}

/// Seconds since the boot, the first number of `/proc/uptime`.
fn parse_uptime(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let text = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs\n    lo:     999       1    0    0    0     0          0         0     999       1    0    0    0     0       0          0\n  eth0:    1000       9    0    0    0     0          0         0      70       1    0    0    0     0       0          0\n  eth1:       1       9    0    0    0     0          0         0       2       1    0    0    0     0       0          0\n";
        assert_eq!(parse_net_dev(text), (1001, 72));
        let line = |name: &str| format!("{name}: {0} 1 0 0 0 0 0 0 {0} 1\n", u64::MAX);
        let much = [line("eth0"), line("eth1")].concat();
        assert_eq!(parse_net_dev(&much), (u64::MAX, u64::MAX));
        assert_eq!(parse_uptime("12.50 20.00\n"), Some(12.5));
    }
}
