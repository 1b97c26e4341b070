//! Sockets of the client: a packet socket while there is no address, UDP afterwards.
//!
//! A packet socket receives every IP packet of the interface, so it is open only while an answer is expected.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrLike, sockopt,
};

use super::Interface;
use super::client::Destination;
use super::frame::{self, CLIENT_PORT, SERVER_PORT};
use super::packet::Message;

/// Larger than the largest message that the client accepts.
const BUFFER: usize = 2048;

/// A socket on one interface.
#[derive(Debug)]
pub enum Socket {
    /// `AF_PACKET` (packet(7)), with IP and UDP headers of our own.
    Packets(OwnedFd),
    /// UDP port 68, from our address.
    Datagrams(OwnedFd),
}

impl Socket {
    /// Opens a socket for all packets of the interface: a server sends its answer to the address that it is about to assign.
    pub fn packets(nic: &Interface) -> Result<Self, Errno> {
        // With protocol 0 the socket receives nothing before it is bound to the interface.
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        socket::bind(socket.as_raw_fd(), &broadcast_on(nic.link.index)?)?;
        Ok(Self::Packets(socket))
    }

    /// Opens a socket for datagrams to our address or to all.
    pub fn datagrams(nic: &Interface) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        // Each interface has a socket on this port.
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        socket::setsockopt(&socket, sockopt::Broadcast, &true)?;
        let name = OsString::from(&nic.link.name);
        socket::setsockopt(&socket, sockopt::BindToDevice, &name)?;
        // Any address: a refusal is broadcast (RFC 2131, 4.1).
        let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT));
        socket::bind(socket.as_raw_fd(), &any)?;
        Ok(Self::Datagrams(socket))
    }

    /// Sends a message.
    pub fn send(
        &self,
        nic: &Interface,
        message: &Message,
        destination: Destination,
    ) -> Result<(), Errno> {
        let bytes = message.to_bytes();
        let flags = MsgFlags::empty();
        match self {
            Self::Packets(socket) => {
                let to = broadcast_on(nic.link.index)?;
                socket::sendto(socket.as_raw_fd(), &frame::wrap(&bytes), &to, flags)?;
            }
            Self::Datagrams(socket) => {
                let ip = match destination {
                    Destination::Server(server) => server,
                    Destination::Broadcast | Destination::Unconfigured => Ipv4Addr::BROADCAST,
                };
                let to = SockaddrIn::from(SocketAddrV4::new(ip, SERVER_PORT));
                socket::sendto(socket.as_raw_fd(), &bytes, &to, flags)?;
            }
        }
        Ok(())
    }

    /// Receives one packet; `None` if it is no DHCP message.
    pub fn receive(&self) -> Result<Option<Message>, Errno> {
        let mut buffer = [0; BUFFER];
        let flags = MsgFlags::MSG_DONTWAIT;
        let length = match socket::recv(self.as_fd().as_raw_fd(), &mut buffer, flags) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let packet = buffer.get(..length).unwrap_or_default();
        Ok(match self {
            Self::Packets(_) => frame::unwrap(packet).and_then(Message::parse),
            Self::Datagrams(_) => Message::parse(packet),
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Packets(socket) | Self::Datagrams(socket) => socket.as_fd(),
        }
    }
}

/// Returns the broadcast address of an interface, for IPv4.
#[allow(unsafe_code)]
fn broadcast_on(index: u32) -> Result<LinkAddr, Errno> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: i32::try_from(index).map_err(|_| Errno::ENODEV)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole, initialised sockaddr_ll of that length, from which nix
    // copies. nix has no other way to make a LinkAddr.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or(Errno::EINVAL)
}
