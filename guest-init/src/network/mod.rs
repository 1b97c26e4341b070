//! Brings up the network of the sandbox.
//!
//! libvirt has named the interfaces already (`eth0`…). It does not keep leases alive: what is to be
//! kept is handed back, for a process that outlives PID 1's own work.

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

/// Why a NIC cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// DHCP could not even be tried.
    #[error(transparent)]
    Dhcp(#[from] DhcpError),
    /// The config names an interface that was not given to the sandbox.
    #[error("looking for interface {name}: there are only {}", present.join(", "))]
    Missing {
        /// Its name.
        name: String,
        /// The interfaces there are.
        present: Vec<String>,
    },
    /// DHCP on something other than Ethernet.
    #[error("asking for an address on {0}: it has no Ethernet address")]
    NotEthernet(String),
}

/// An interface whose address [`dhcp::maintain`] has to keep, or still to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedNic {
    /// The interface.
    pub interface: Interface,
    /// What is known of its lease. One that is known is applied.
    pub known: Known,
}

impl LeasedNic {
    /// The name under which its lease is remembered: another NIC of the same name must not take it over.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.interface)
    }

    /// The lease that is applied.
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

/// Raises the loopback and all NICs and gives them their addresses.
///
/// A NIC on DHCP has `deadline` to get one; if no server answers, the sandbox starts without.
/// `previous` are the leases of the last run by [`LeasedNic::key`]; one that still holds is used at once.
pub fn configure(
    nics: &[Nic],
    hostname: &str,
    previous: &BTreeMap<String, Lease>,
    deadline: Duration,
) -> Result<Vec<LeasedNic>, NetworkError> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    // 127.0.0.1 and ::1 come by themselves with it.
    netlink.set_up(find(&links, "lo")?)?;
    let mut dynamic = Vec::new();
    for nic in nics {
        let mut link = find(&links, &nic.name)?.clone();
        // udev of the host gives a new veth an address of its own choice (`MACAddressPolicy=` of systemd.link(5)), and that may
        // come after libvirt has given it this one.
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
                    // What is remembered may have been damaged; a server knows better.
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
                    log::warn!("{error}");
                    wanted.map_or(Known::Nothing, Known::Address)
                }
                Err(error @ DhcpError::System { .. }) => return Err(error.into()),
            };
            Ok(LeasedNic { interface, known })
        })
        .collect()
}

/// The first port that anybody may listen on, in `/proc` (ip(7)).
const FIRST_PORT: &str = "sys/net/ipv4/ip_unprivileged_port_start";

/// Where a view of `/proc` of our own is for a moment: libvirt makes the one of a container read-only there.
const MOMENTARY: &str = "/run";

/// Lets every user listen on all ports. The sandbox works without, so a failure is only said.
pub fn allow_low_ports() {
    let elsewhere = || -> io::Result<()> {
        let kind = Some("proc");
        mount(kind, MOMENTARY, kind, MsFlags::empty(), None::<&str>)?;
        let written = fs::write(Path::new(MOMENTARY).join(FIRST_PORT), "0");
        umount2(MOMENTARY, MntFlags::MNT_DETACH)?;
        written
    };
    if let Err(error) = fs::write(Path::new("/proc").join(FIRST_PORT), "0").or_else(|_| elsewhere())
    {
        log::debug!("opening ports below 1024: {error}");
    }
}

/// resolv.conf for leases of several NICs, first come, first asked; `None` if they name no server,
/// so that the file is better left as it is.
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
