//! Where a port of a sandbox may be answered, and connecting to it without waiting.
//!
//! What comes from outside must not seem local to a service that trusts its own host (CVE-2021-20199), so the loopback is
//! asked last, and only where nobody listens at any other address.

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

/// Where a port may be answered, most wanted first.
#[derive(Debug, Clone)]
pub struct Targets {
    port: u16,
    own: std::vec::IntoIter<IpAddr>,
    /// Empty where the loopback is another one.
    loopback: std::slice::Iter<'static, IpAddr>,
    /// Something else than "nobody listens here" was said.
    is_barred: bool,
}

impl Targets {
    /// At addresses that are not the loopback's, and at that last if `has_loopback`.
    #[must_use]
    pub fn new(own: Vec<IpAddr>, port: u16, has_loopback: bool) -> Self {
        Self {
            port,
            own: own.into_iter(),
            loopback: if has_loopback { &LOOPBACK[..] } else { &[] }.iter(),
            is_barred: false,
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Notes why the one before was not it.
    pub fn failed(&mut self, error: &io::Error) {
        self.is_barred |= error.kind() != io::ErrorKind::ConnectionRefused;
    }
}

impl Iterator for Targets {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let address = match self.own.next() {
            Some(address) => address,
            None if self.is_barred => return None,
            None => *self.loopback.next()?,
        };
        Some(SocketAddr::new(address, self.port))
    }
}

/// Begins a connection, which is there once [`connected`] says so.
///
/// # Errors
/// Where it is refused at once.
pub fn begin(target: SocketAddr) -> io::Result<TcpStream> {
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

/// Whether a connection that was begun is there.
///
/// # Errors
/// Where it was refused.
pub fn connected(server: BorrowedFd<'_>) -> io::Result<bool> {
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

/// A socket for datagrams to `target`.
///
/// # Errors
/// Where there is no way there.
pub fn datagrams(target: SocketAddr) -> io::Result<UdpSocket> {
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
