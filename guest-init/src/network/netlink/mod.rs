//! Links, addresses and routes of this network namespace, over a blocking rtnetlink(7) socket.
//!
//! Every call is one request and its answer. A state that exists already is success, so a lease can be applied repeatedly.

mod message;

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteProtocol;
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

use self::message::{address_message, address_of, gather, last_of, link_of, route_message};
use crate::config::address::{Address, Route};

/// The kernel never builds a larger datagram for a dump (`netlink_dump()`, `SKB_WITH_OVERHEAD`).
const BUFFER: usize = 32 * 1024;

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {cause}")]
pub struct NetlinkError {
    /// Operation, as in `adding address 192.0.2.7/24 to eth0`.
    pub operation: String,
    /// Cause of the failure.
    pub cause: Cause,
}

/// Cause of a failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The kernel has refused, or the socket has failed.
    #[error("{}", .0.desc())]
    Errno(Errno),
    /// The answer of the kernel cannot be parsed.
    #[error("malformed answer of the kernel")]
    Malformed,
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// Names the operation in the error of a request.
trait During<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, Cause> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| NetlinkError {
            operation: operation(),
            cause,
        })
    }
}

/// Treats errors that mean the requested state as success.
fn unless(
    already: &[Errno],
    result: std::result::Result<Vec<RouteNetlinkMessage>, Cause>,
) -> std::result::Result<(), Cause> {
    match result {
        Ok(_) => Ok(()),
        Err(Cause::Errno(errno)) if already.contains(&errno) => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// A network interface as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `eth0`, `lo`…
    pub name: String,
    /// Number of the interface in this network namespace.
    pub index: u32,
    /// Ethernet address; none on tunnels and the like.
    pub mac: Option<[u8; 6]>,
}

/// Route to set: [`Route`] with attributes that only programs use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// First address of the network that is reached.
    pub network: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// The next hop; without one the network is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway is on the link although no address of the link is in its network.
    pub gateway_on_link: bool,
    /// Source address of packets. The kernel removes the route together with this address.
    pub source: Option<IpAddr>,
    /// Priority among routes to the same network; the lowest metric wins. A route with the same metric is replaced.
    pub metric: u32,
    /// Origin of the route, which `ip route` shows.
    pub protocol: RouteProtocol,
}

impl From<&Route> for Hop {
    fn from(route: &Route) -> Self {
        Self {
            network: route.network,
            prefix: route.prefix,
            gateway: Some(route.gateway),
            gateway_on_link: false,
            source: None,
            metric: 0,
            protocol: RouteProtocol::Static,
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)?;
        match self.gateway {
            Some(gateway) => write!(f, " via {gateway}"),
            None => Ok(()),
        }
    }
}

/// A connection to the kernel's network configuration.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Connects to the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        socket::socket(
            socket::AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(|socket| Self {
            socket,
            sequence: 0,
        })
        .map_err(Cause::Errno)
        .during(|| "opening a netlink socket".to_owned())
    }

    /// Lists the links of the namespace. A link that cannot be parsed is left out.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .exchange(request, NLM_F_DUMP)
            .during(|| "listing links".to_owned())?;
        Ok(answers.iter().filter_map(link_of).collect())
    }

    /// Sets a link up, as `ip link set NAME up`.
    pub fn set_up(&mut self, link: &Link) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
            .during(|| format!("raising {}", link.name))
    }

    /// Moves a link to another network namespace, as `ip link set NAME netns`.
    pub fn move_to_namespace(&mut self, link: &Link, namespace: &impl AsRawFd) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        let number = namespace.as_raw_fd();
        message.attributes.push(LinkAttribute::NetNsFd(number));
        self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
            .during(|| format!("moving {} to the sandbox", link.name))
    }

    /// Sets the Ethernet address of a link.
    pub fn set_mac(&mut self, link: &Link, mac: [u8; 6]) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message
            .attributes
            .push(LinkAttribute::Address(mac.to_vec()));
        self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
            .during(|| format!("setting the Ethernet address of {}", link.name))
    }

    /// Sets the largest packet a link carries, in bytes.
    pub fn set_mtu(&mut self, link: &Link, mtu: u16) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes.push(LinkAttribute::Mtu(mtu.into()));
        self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK)
            .map(drop)
            .during(|| format!("setting the MTU of {} to {mtu}", link.name))
    }

    /// Lists the addresses of a link, except IPv6 link-local ones, which the kernel makes and IPv6 needs.
    pub fn addresses(&mut self, link: &Link) -> Result<Vec<Address>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self
            .exchange(request, NLM_F_DUMP)
            .during(|| format!("listing addresses of {}", link.name))?;
        Ok(answers
            .iter()
            .filter_map(|answer| address_of(answer, link.index))
            .collect())
    }

    /// Adds an address. Duplicate detection of IPv6 is off: for a second or two no service could bind the address.
    pub fn add_address(&mut self, link: &Link, address: &Address) -> Result<()> {
        let mut message = address_message(link, address);
        match address.ip {
            IpAddr::V4(ip) => {
                let broadcast = address.broadcast.or_else(|| last_of(ip, address.prefix));
                message
                    .attributes
                    .extend(broadcast.map(AddressAttribute::Broadcast));
            }
            IpAddr::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
        }
        let added = self.exchange(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        );
        unless(&[Errno::EEXIST], added)
            .during(|| format!("adding address {address} to {}", link.name))
    }

    /// Removes an address, and with it the routes whose source it is.
    pub fn remove_address(&mut self, link: &Link, address: &Address) -> Result<()> {
        let message = address_message(link, address);
        let removed = self.exchange(RouteNetlinkMessage::DelAddress(message), NLM_F_ACK);
        unless(&[Errno::EADDRNOTAVAIL], removed)
            .during(|| format!("removing address {address} from {}", link.name))
    }

    /// Removes all addresses that [`Self::addresses`] lists.
    pub fn flush_addresses(&mut self, link: &Link) -> Result<()> {
        for address in self.addresses(link)? {
            self.remove_address(link, &address)?;
        }
        Ok(())
    }

    /// Sets a route, replacing one to the same network with the same metric.
    pub fn set_route(&mut self, link: &Link, hop: &Hop) -> Result<()> {
        self.exchange(
            RouteNetlinkMessage::NewRoute(route_message(link, hop)),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
        .during(|| format!("setting route {hop} on {}", link.name))
    }

    /// Removes a route.
    pub fn remove_route(&mut self, link: &Link, hop: &Hop) -> Result<()> {
        let message = RouteNetlinkMessage::DelRoute(route_message(link, hop));
        let removed = self.exchange(message, NLM_F_ACK);
        unless(&[Errno::ESRCH], removed)
            .during(|| format!("removing route {hop} from {}", link.name))
    }

    /// Sends a request and collects its answers, up to the ACK or the end of a dump.
    fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> std::result::Result<Vec<RouteNetlinkMessage>, Cause> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(self.socket.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;

        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
            {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let datagram = buffer.get(..length).ok_or(Cause::Malformed)?;
            if gather(datagram, self.sequence, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_operation() {
        let error = Err::<(), _>(Cause::Errno(Errno::EPERM)).during(|| "raising eth0".to_owned());
        assert_eq!(
            error.unwrap_err().to_string(),
            "raising eth0: Operation not permitted"
        );
    }
}
