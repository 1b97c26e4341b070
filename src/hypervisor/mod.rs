//! What is asked of a hypervisor. The trait is small so that everything above can be tried with a
//! fake; `libvirt` is the only implementation and the only module that speaks to libvirt.

pub mod libvirt;
mod parse;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use crate::config::resources::IdSet;
use crate::error::Result;

/// A connection to a hypervisor.
pub trait Hypervisor {
    /// Makes a domain known, or replaces what is known of it.
    ///
    /// # Errors
    /// Where the document is refused.
    fn define(&self, xml: &str) -> Result<()>;

    /// Forgets a domain; one that is not known is no error.
    ///
    /// # Errors
    /// Where the hypervisor refuses.
    fn undefine(&self, name: &str) -> Result<()>;

    /// The document of a defined domain; none of one that is not known.
    ///
    /// # Errors
    /// Where the hypervisor does not answer.
    fn definition(&self, name: &str) -> Result<Option<String>>;

    /// Starts a defined domain.
    ///
    /// # Errors
    /// Where it does not start.
    fn start(&self, name: &str) -> Result<()>;

    /// Starts a domain that nobody has defined, and that ends with this connection, unless the driver is in this process.
    /// `files` are handed down to a container's first process, from file descriptor 3 on.
    ///
    /// # Errors
    /// Where it does not start.
    fn run(&self, xml: &str, files: &[BorrowedFd<'_>]) -> Result<()>;

    /// Ends a domain at once; one that does not run is no error.
    ///
    /// # Errors
    /// Where the hypervisor refuses.
    fn destroy(&self, name: &str) -> Result<()>;

    /// Ends a domain if it is the one with this identity, and not another of the same name.
    ///
    /// # Errors
    /// Where the hypervisor refuses.
    fn destroy_own(&self, name: &str, uuid: uuid::Uuid) -> Result<()>;

    /// Freezes a running domain: none of its processes runs until [`resume`](Self::resume).
    ///
    /// # Errors
    /// Where it does not run, or the hypervisor cannot freeze it.
    fn suspend(&self, name: &str) -> Result<()>;

    /// Lets a frozen domain run on; one that is not frozen is no error.
    ///
    /// # Errors
    /// Where the hypervisor refuses.
    fn resume(&self, name: &str) -> Result<()>;

    /// Changes a limit of a running domain, until it ends.
    ///
    /// # Errors
    /// Where it does not run, or its kernel or the host's does not take the limit.
    fn limit(&self, name: &str, limit: &Limit) -> Result<()>;

    /// What a running domain has used.
    ///
    /// # Errors
    /// Where it does not run, or the hypervisor does not answer.
    fn usage(&self, name: &str) -> Result<Usage>;

    /// Whether a domain has this identity.
    ///
    /// # Errors
    /// Where the hypervisor does not answer.
    fn is_known(&self, uuid: &uuid::Uuid) -> Result<bool>;

    /// What a domain is doing.
    ///
    /// # Errors
    /// Where the hypervisor does not answer.
    fn state(&self, name: &str) -> Result<DomainState>;

    /// Whether a virtual network is up.
    ///
    /// # Errors
    /// Where there is no such network; the message names those there are.
    fn is_network_active(&self, name: &str) -> Result<bool>;

    /// The addresses that a virtual network leases; none where it leases none.
    ///
    /// # Errors
    /// Where there is no such network.
    fn leased_range(&self, name: &str) -> Result<Option<RangeInclusive<Ipv4Addr>>>;

    /// The subnets that a virtual network gives addresses on; none where the host has no part in that.
    ///
    /// # Errors
    /// Where there is no such network.
    fn subnets(&self, name: &str) -> Result<Vec<Subnet>>;

    /// Starts a virtual network; one that is up is no error.
    ///
    /// # Errors
    /// Where it does not start.
    fn start_network(&self, name: &str) -> Result<()>;

    /// The XML that tells what the hypervisor and its host can do.
    ///
    /// # Errors
    /// Where it does not answer.
    fn capabilities(&self) -> Result<String>;

    /// Makes sure that a virtual network is up.
    ///
    /// # Errors
    /// Where there is no such network, or it does not start.
    fn ensure_network(&self, name: &str) -> Result<()> {
        if self.is_network_active(name)? {
            return Ok(());
        }
        log::info!("network '{name}' is inactive: starting it");
        self.start_network(name)
    }

    /// An address that the server of a virtual network may well give to the sandbox `uuid`: a server that leases it gives it at
    /// once if it is free, where it takes seconds to choose one itself.
    ///
    /// # Errors
    /// Where there is no such network.
    fn likely_address(&self, name: &str, uuid: &uuid::Uuid) -> Result<Option<Ipv4Addr>> {
        let range = self.leased_range(name)?;
        Ok(range.and_then(|range| address_of(&range, uuid)))
    }
}

/// A subnet of a virtual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// An address in it.
    pub address: IpAddr,
    /// How many bits of that all have in common.
    pub prefix: u8,
}

impl Subnet {
    /// Whether an address is one of it.
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

/// An address of a range, told by the identity of a sandbox.
fn address_of(range: &RangeInclusive<Ipv4Addr>, uuid: &uuid::Uuid) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
    let size = u128::from(last.checked_sub(first)?) + 1;
    let offset = u32::try_from(uuid.as_u128() % size).ok()?;
    Some(Ipv4Addr::from(first + offset))
}

/// A limit that can be changed while a domain runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// Most memory, in KiB.
    Memory(u64),
    /// What a guest has of the memory it was started with, in KiB. It has to give the rest back itself.
    Balloon(u64),
    /// CPUs of a guest, up to those it was started for.
    VirtualCpus(u32),
    /// CPUs of the host that all of it runs on.
    Pinning(IdSet),
    /// Weight of its CPU time.
    CpuShares(u64),
    /// CPU time in a period, both in microseconds; no limit where there is none.
    CpuQuota {
        /// The time.
        quota: Option<u64>,
        /// The period.
        period: u64,
    },
    /// Weight of its block I/O.
    IoWeight(u32),
}

/// What a domain has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub cpu: u64,
    /// Memory it has now, in KiB.
    pub memory: u64,
    /// Most memory it may have, in KiB, if there is a limit.
    pub most_memory: Option<u64>,
    /// Bytes read from block devices and written there, where the kernel counts them.
    pub io: Option<(u64, u64)>,
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// The hypervisor does not know it.
    Missing,
    /// Defined, and not running.
    Stopped,
    /// Running.
    Running {
        /// Its number at the hypervisor: for a container the process that keeps it on the host, the parent of its first one.
        id: u32,
    },
    /// Frozen.
    Paused {
        /// As for [`Running`](Self::Running).
        id: u32,
    },
}

impl DomainState {
    /// The word that commands print.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "undefined",
            Self::Stopped => "stopped",
            Self::Running { .. } => "running",
            Self::Paused { .. } => "paused",
        }
    }

    /// Whether it runs or is frozen.
    #[must_use]
    pub fn is_active(self) -> bool {
        self.id().is_some()
    }

    /// The number of an active domain at the hypervisor.
    #[must_use]
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Running { id } | Self::Paused { id } => Some(id),
            Self::Missing | Self::Stopped => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_told_by_its_prefix() {
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
    fn an_address_lies_in_its_range() {
        let range = Ipv4Addr::new(192, 0, 2, 2)..=Ipv4Addr::new(192, 0, 2, 4);
        for seed in [0, 1, 2, u128::MAX] {
            let address = address_of(&range, &uuid::Uuid::from_u128(seed)).unwrap();
            assert!(range.contains(&address), "{address}");
        }
        let backwards = Ipv4Addr::new(192, 0, 2, 4)..=Ipv4Addr::new(192, 0, 2, 2);
        assert_eq!(address_of(&backwards, &uuid::Uuid::from_u128(1)), None);
    }
}
