//! Network of the sandbox. libvirt has named the interfaces (`eth0`…); [`configure`] gives them addresses, and `lease_process` renews
//! the leases.

pub mod dhcp;
pub(crate) mod lease_process;
pub mod netlink;
pub mod resolv;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::config::{Addressing, Nic};
use crate::network::dhcp::{DhcpError, Interface, Known, Lease};
use crate::network::netlink::{Hop, Link, Netlink, NetlinkError};

/// Error in the configuration of a NIC.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel has refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A system call of the DHCP client has failed.
    #[error(transparent)]
    Dhcp(#[from] DhcpError),
    /// The config names an interface that was not given to the sandbox.
    #[error("looking for interface {name}: there are only {}", present.join(", "))]
    Missing {
        /// Configured name.
        name: String,
        /// Interfaces of the sandbox.
        present: Vec<String>,
    },
    /// DHCP on something other than Ethernet.
    #[error("asking for an address on {0}: it has no Ethernet address")]
    NotEthernet(String),
}

/// Interface with DHCP, for [`dhcp::maintain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedNic {
    /// The interface.
    pub interface: Interface,
    /// Lease so far. It is applied.
    pub known: Known,
}

impl LeasedNic {
    /// Returns the key of its stored lease: the Ethernet address, since another NIC may get the same name.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.interface)
    }

    /// Returns the applied lease.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.known {
            Known::Remembered(lease) | Known::Confirmed(lease) => Some(lease),
            Known::Nothing | Known::Address(_) => None,
        }
    }
}

fn key(interface: &Interface) -> String {
    interface.mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Brings up the loopback and all NICs, with their addresses.
///
/// A DHCP server has `deadline` to answer; without an answer the sandbox starts without an address. `previous` has the leases of the last
/// run by [`LeasedNic::key`]; a lease that has not expired is used at once.
pub fn configure(
    nics: &[Nic],
    hostname: &str,
    previous: &BTreeMap<String, Lease>,
    deadline: Duration,
) -> Result<Vec<LeasedNic>, NetworkError> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    // The kernel adds 127.0.0.1 and ::1.
    netlink.set_up(find(&links, "lo")?)?;
    let mut dynamic = Vec::new();
    for nic in nics {
        let mut link = find(&links, &nic.name)?.clone();
        // udev of the host may change the address of a new veth after libvirt has set it (`MACAddressPolicy=` of systemd.link(5)).
        if let Some(mac) = nic.mac.filter(|mac| link.mac != Some(*mac)) {
            netlink.set_mac(&link, mac)?;
            link.mac = Some(mac);
        }
        let link = &link;
        netlink.set_up(link)?;
        match &nic.addressing {
            Addressing::None => {}
            Addressing::Static { addresses, routes } => {
                for address in addresses {
                    netlink.add_address(link, address)?;
                }
                for route in routes {
                    netlink.set_route(link, &Hop::from(route))?;
                }
            }
            Addressing::Dhcp => {
                let interface = Interface::new(link.clone())
                    .ok_or_else(|| NetworkError::NotEthernet(nic.name.clone()))?;
                dynamic.push((interface, nic.hint));
            }
        }
    }
    dynamic
        .into_iter()
        .map(|(interface, hint)| {
            let previous = previous.get(&key(&interface));
            if let Some(lease) = previous.filter(|lease| dhcp::still_holds(lease)) {
                match dhcp::apply(&interface.link, lease, None) {
                    Ok(()) => {
                        let known = Known::Remembered(lease.clone());
                        return Ok(LeasedNic { interface, known });
                    }
                    // The stored lease may be damaged: ask a server.
                    Err(error) => log::warn!("{error}"),
                }
            }
            let wanted = previous.map(|lease| lease.address).or(hint);
            let known = match dhcp::acquire(&interface, hostname, wanted, deadline) {
                Ok(lease) => {
                    dhcp::apply(&interface.link, &lease, None)?;
                    Known::Confirmed(lease)
                }
                Err(error @ DhcpError::NoAnswer { .. }) => {
                    log::warn!(
                        "{error}; the sandbox starts without an address there, and goes on asking"
                    );
                    wanted.map_or(Known::Nothing, Known::Address)
                }
                Err(error @ DhcpError::System { .. }) => return Err(error.into()),
            };
            Ok(LeasedNic { interface, known })
        })
        .collect()
}

/// First port that every user may listen on, in `/proc` (ip(7)).
const FIRST_PORT: &str = "sys/net/ipv4/ip_unprivileged_port_start";

/// Temporary mount point of a writable `/proc`: libvirt makes that of a container read-only.
const MOUNT_POINT: &str = "/run";

/// Lets every user listen on all ports. A failure is logged only: the sandbox works without.
pub fn allow_low_ports() {
    let elsewhere = || -> io::Result<()> {
        let kind = Some("proc");
        mount(kind, MOUNT_POINT, kind, MsFlags::empty(), None::<&str>)?;
        let written = fs::write(Path::new(MOUNT_POINT).join(FIRST_PORT), "0");
        umount2(MOUNT_POINT, MntFlags::MNT_DETACH)?;
        written
    };
    if let Err(error) = fs::write(Path::new("/proc").join(FIRST_PORT), "0").or_else(|_| elsewhere())
    {
        log::debug!("opening ports below 1024: {error}");
    }
}

/// Renders resolv.conf for the leases of several NICs, in their order; `None` if they have no server, so that the file stays as it is.
#[must_use]
pub fn resolv_conf<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> Option<String> {
    let mut dns = Vec::new();
    let mut domain = None;
    let mut search = Vec::new();
    for lease in leases {
        dns.extend(lease.dns.iter().copied().map(IpAddr::from));
        domain = domain.or(lease.domain.as_deref());
        search.extend(lease.search.iter().cloned());
    }
    (!dns.is_empty()).then(|| resolv::render(&dns, domain, &search))
}

fn find<'a>(links: &'a [Link], name: &str) -> Result<&'a Link, NetworkError> {
    links
        .iter()
        .find(|link| link.name == name)
        .ok_or_else(|| NetworkError::Missing {
            name: name.to_owned(),
            present: links.iter().map(|link| link.name.clone()).collect(),
        })
}
