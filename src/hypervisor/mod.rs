//! Interface to the hypervisor: domains and virtual networks.
//!
//! Everything above uses the trait [`Hypervisor`]. [`libvirt`] implements it and is the only module that calls libvirt. `fake`
//! implements it in memory, for unit tests without a daemon.

#![warn(missing_docs)]

#[cfg(test)]
pub(crate) mod fake;
pub mod libvirt;
mod parse;

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use uuid::Uuid;

use crate::config::resources::IdSet;
use crate::error::Result;

/// Opens connections to the hypervisor. Tests replace libvirt by one in memory.
#[derive(Debug, Clone, Default)]
pub enum Connector {
    /// libvirt, at the URI.
    #[default]
    Libvirt,
    /// The same hypervisor in memory, whatever the URI.
    #[cfg(test)]
    Fake(Arc<fake::Fake>),
}

impl Connector {
    /// Connects to the hypervisor at `uri`.
    ///
    /// # Errors
    /// No daemon answers; the message says how to start one.
    pub fn open(&self, uri: &str) -> Result<Arc<dyn Hypervisor>> {
        match self {
            Self::Libvirt => Ok(Arc::new(libvirt::Libvirt::open(uri)?)),
            #[cfg(test)]
            Self::Fake(fake) => Ok(Arc::clone(fake) as Arc<dyn Hypervisor>),
        }
    }
}

/// Connection to a hypervisor. Domains and networks are addressed by their names.
pub trait Hypervisor: Debug + Send + Sync {
    /// Defines the domain in a document, or replaces its definition. A running domain runs on as it is.
    fn define(&self, xml: &str) -> Result<()>;

    /// Removes the definition of a domain. Does nothing if there is none.
    fn undefine(&self, name: &str) -> Result<()>;

    /// Returns the document of a defined domain.
    fn definition(&self, name: &str) -> Result<Option<String>>;

    /// Starts a defined domain.
    fn start(&self, name: &str) -> Result<()>;

    /// Starts a domain without a definition. It ends with this connection, unless the driver runs in this process. A container's
    /// first process inherits `files`, from file descriptor 3 on.
    fn run(&self, xml: &str, files: &[BorrowedFd<'_>]) -> Result<()>;

    /// Ends a domain at once. Does nothing if it does not run.
    fn destroy(&self, name: &str) -> Result<()>;

    /// Ends a domain only if it has this identity: another of the same name runs on.
    fn destroy_own(&self, name: &str, uuid: Uuid) -> Result<()>;

    /// Freezes a running domain: none of its processes runs until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// The domain does not run, or the hypervisor cannot freeze it.
    fn freeze(&self, name: &str) -> Result<()>;

    /// Thaws a frozen domain. Does nothing if it is not frozen.
    fn thaw(&self, name: &str) -> Result<()>;

    /// Changes a limit of a running domain, until it ends.
    ///
    /// # Errors
    /// The domain does not run, or its kernel or the host's does not accept the limit.
    fn limit(&self, name: &str, limit: &Limit) -> Result<()>;

    /// Returns the resources that a running domain has used.
    fn usage(&self, name: &str) -> Result<Usage>;

    /// Returns whether a domain has this identity, whatever its name.
    fn is_known(&self, uuid: &Uuid) -> Result<bool>;

    /// Returns the state of a domain.
    fn state(&self, name: &str) -> Result<DomainState>;

    /// Returns whether a virtual network is active.
    ///
    /// # Errors
    /// There is no such network; the message names those there are.
    fn is_network_active(&self, name: &str) -> Result<bool>;

    /// Checks that there is a network filter of this name.
    ///
    /// # Errors
    /// There is none; the message names those there are.
    fn check_filter(&self, name: &str) -> Result<()>;

    /// Returns the addresses that the DHCP server of a virtual network leases, if it has one.
    fn leased_range(&self, name: &str) -> Result<Option<RangeInclusive<Ipv4Addr>>>;

    /// Returns the subnets of a virtual network; none if the host has no address in it.
    fn subnets(&self, name: &str) -> Result<Vec<Subnet>>;

    /// Starts a virtual network. Does nothing if it is active.
    fn start_network(&self, name: &str) -> Result<()>;

    /// Returns the document with the capabilities of the hypervisor and its host.
    fn capabilities(&self) -> Result<String>;

    /// Starts a virtual network unless it is active.
    fn ensure_network(&self, name: &str) -> Result<()> {
        if self.is_network_active(name)? {
            return Ok(());
        }
        log::info!("network '{name}' is inactive: starting it");
        self.start_network(name)
    }

    /// Returns an address to ask the DHCP server of a virtual network for, on behalf of the sandbox `uuid`. A server leases a free
    /// address that is asked for at once; choosing one itself takes it seconds.
    fn likely_address(&self, name: &str, uuid: &Uuid) -> Result<Option<Ipv4Addr>> {
        let range = self.leased_range(name)?;
        Ok(range.and_then(|range| address_of(&range, uuid)))
    }
}

/// Subnet of a virtual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Any address of the subnet.
    pub address: IpAddr,
    /// Number of leading bits that all addresses have in common.
    pub prefix: u8,
}

impl Subnet {
    /// Returns whether an address belongs to the subnet.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other, length) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let rest = u32::from(length - self.prefix.min(length));
        (own ^ other)
            .checked_shr(rest)
            .is_none_or(|differing| differing == 0)
    }
}

/// Derives an address of a range from the identity of a sandbox.
fn address_of(range: &RangeInclusive<Ipv4Addr>, uuid: &Uuid) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
    let size = u128::from(last.checked_sub(first)?) + 1;
    let offset = u32::try_from(uuid.as_u128() % size).ok()?;
    Some(Ipv4Addr::from(first + offset))
}

/// Limit that can be changed while a domain runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// Most memory, in KiB.
    Memory(u64),
    /// Memory that a virtual machine keeps of what it was started with, in KiB. Its kernel has to give the rest back.
    Balloon(u64),
    /// CPUs of a virtual machine, up to the number that it was started for.
    VirtualCpus(u32),
    /// CPUs of the host that the domain runs on.
    Pinning(IdSet),
    /// Weight of CPU time, relative to other domains.
    CpuShares(u64),
    /// CPU time in each period.
    CpuQuota {
        /// Microseconds of CPU time; unlimited if absent.
        quota: Option<u64>,
        /// Length of a period in microseconds.
        period: u64,
    },
    /// Weight of block I/O, relative to other domains.
    IoWeight(u32),
}

/// Resources that a domain has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub cpu: u64,
    /// Memory in use now, in KiB.
    pub memory: u64,
    /// Limit of the memory, in KiB.
    pub most_memory: Option<u64>,
    /// Bytes read from and written to block devices, if the kernel counts them.
    pub io: Option<(u64, u64)>,
}

/// State of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// There is no such domain.
    Missing,
    /// Defined, but not running.
    Stopped,
    /// Running.
    Running {
        /// Number of the domain. For a container, the process id of its `libvirt_lxc` controller, the parent of the first process.
        id: u32,
    },
    /// Frozen.
    Frozen {
        /// Number of the domain, as of [`Running`](Self::Running).
        id: u32,
    },
}

impl DomainState {
    /// Returns the word that commands print.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "undefined",
            Self::Stopped => "stopped",
            Self::Running { .. } => "running",
            Self::Frozen { .. } => "frozen",
        }
    }

    /// Returns whether the domain runs or is frozen.
    #[must_use]
    pub fn is_active(self) -> bool {
        self.id().is_some()
    }

    /// Returns the number of an active domain.
    #[must_use]
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Running { id } | Self::Frozen { id } => Some(id),
            Self::Missing | Self::Stopped => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_contains_the_addresses_with_its_prefix() {
        for (own, prefix, other, is_in) in [
            ("192.0.2.1", 24, "192.0.2.255", true),
            ("192.0.2.1", 24, "192.0.3.1", false),
            ("192.0.2.1", 32, "192.0.2.0", false),
            ("192.0.2.1", 0, "10.0.0.1", true),
            ("192.0.2.1", 24, "::ffff:192.0.2.2", false),
            ("2001:db8::1", 64, "2001:db8::ffff:0:0:1", true),
            ("2001:db8::1", 64, "2001:db8:0:1::1", false),
            ("2001:db8::1", 0, "2001::1", true),
        ] {
            let address = own.parse().unwrap();
            let subnet = Subnet { address, prefix };
            assert_eq!(
                subnet.contains(other.parse().unwrap()),
                is_in,
                "{own}/{prefix} {other}"
            );
        }
    }

    #[test]
    fn a_likely_address_lies_in_the_leased_range() {
        let range = Ipv4Addr::new(192, 0, 2, 2)..=Ipv4Addr::new(192, 0, 2, 4);
        for seed in [0, 1, 2, u128::MAX] {
            let address = address_of(&range, &uuid::Uuid::from_u128(seed)).unwrap();
            assert!(range.contains(&address), "{address}");
        }
        let backwards = Ipv4Addr::new(192, 0, 2, 4)..=Ipv4Addr::new(192, 0, 2, 2);
        assert_eq!(address_of(&backwards, &uuid::Uuid::from_u128(1)), None);
    }
}
