//! Addresses at which a port of a sandbox may be served, and nonblocking connections to them.
//!
//! A connection from outside must not look local to a service that trusts its own host (CVE-2021-20199). So the loopback is tried
//! last, and only if nobody listens at any other address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getpeername, getsockopt, socket,
    sockopt,
};

const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Addresses of a port, in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Targets {
    port: u16,
    own: std::vec::IntoIter<IpAddr>,
    /// Empty if the loopback belongs to another host.
    loopback: std::slice::Iter<'static, IpAddr>,
    /// Whether an address failed for another reason than that nobody listens.
    skips_loopback: bool,
}

impl Targets {
    /// Returns the addresses `own`, none of which is a loopback address, followed by the loopback with `has_loopback`.
    #[must_use]
    pub fn new(own: Vec<IpAddr>, port: u16, has_loopback: bool) -> Self {
        Self {
            port,
            own: own.into_iter(),
            loopback: if has_loopback { &LOOPBACK[..] } else { &[] }.iter(),
            skips_loopback: false,
        }
    }

    /// Returns the port that all addresses have in common.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Notes why the address returned last could not be used.
    pub fn failed(&mut self, error: &io::Error) {
        self.skips_loopback |= error.kind() != io::ErrorKind::ConnectionRefused;
    }
}

impl Iterator for Targets {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let address = match self.own.next() {
            Some(address) => address,
            None if self.skips_loopback => return None,
            None => *self.loopback.next()?,
        };
        Some(SocketAddr::new(address, self.port))
    }
}

/// Starts a connection. [`is_connected`] tells when it is established.
///
/// # Errors
/// If it is refused at once.
pub fn start_connect(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let server = TcpStream::from(socket);
    server.set_nodelay(true)?;
    Ok(server)
}

/// Returns whether a started connection is established.
///
/// # Errors
/// If it was refused.
pub fn is_connected(server: BorrowedFd<'_>) -> io::Result<bool> {
    let error = getsockopt(&server, sockopt::SocketError)?;
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    match getpeername::<SockaddrStorage>(server.as_raw_fd()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOTCONN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a socket for datagrams to `target`.
///
/// # Errors
/// If there is no route to it.
pub fn open_datagrams(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}
