//! What is asked of a hypervisor. The trait is small so that everything above can be tried with a
//! fake; `libvirt` is the only implementation and the only file that speaks to libvirt.

pub mod libvirt;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

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

    /// Starts a defined domain.
    ///
    /// # Errors
    /// Where it does not start.
    fn start(&self, name: &str) -> Result<()>;

    /// Ends a domain at once; one that does not run is no error.
    ///
    /// # Errors
    /// Where the hypervisor refuses.
    fn destroy(&self, name: &str) -> Result<()>;

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

    /// Starts a virtual network; one that is up is no error.
    ///
    /// # Errors
    /// Where it does not start.
    fn start_network(&self, name: &str) -> Result<()>;
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
        /// The process that keeps it on the host: the parent of a container's first process.
        controller: u32,
    },
    /// Frozen.
    Paused {
        /// As for [`Running`](Self::Running).
        controller: u32,
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

    /// The process that keeps an active domain.
    #[must_use]
    pub fn controller(self) -> Option<u32> {
        match self {
            Self::Running { controller } | Self::Paused { controller } => Some(controller),
            Self::Missing | Self::Stopped => None,
        }
    }
}
