//! Listening sockets: created here, or inherited from the service manager (`sd_listen_fds(3)`).
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen,
    setsockopt, socket, sockopt,
};

/// First inherited descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP socket.
    Stream(TcpListener),
    /// UDP socket.
    Datagram(UdpSocket),
}

impl Listener {
    /// Listens for TCP connections at a port of `address`, or of every address.
    ///
    /// # Errors
    /// If the port is taken, or the host does not have the address.
    pub fn stream(address: Option<IpAddr>, port: u16) -> io::Result<Self> {
        let socket = bound(SockType::Stream, address, port)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(Self::Stream(socket.into()))
    }

    /// Receives UDP datagrams at a port of `address`, or of every address.
    ///
    /// # Errors
    /// See [`stream`](Self::stream).
    pub fn datagram(address: Option<IpAddr>, port: u16) -> io::Result<Self> {
        let socket = bound(SockType::Datagram, address, port)?;
        Ok(Self::Datagram(socket.into()))
    }

    /// Returns the local address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Stream(socket) => socket.local_addr(),
            Self::Datagram(socket) => socket.local_addr(),
        }
    }

    /// Takes over the inherited socket `descriptor`.
    ///
    /// # Errors
    /// If it is neither a listening TCP socket nor a UDP socket.
    pub fn from_inherited(descriptor: RawFd) -> io::Result<Self> {
        // SAFETY: only compared and read here; a number that is not open is an error of fcntl(2).
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // SAFETY: the descriptor is open and was inherited, and nothing else in this process knows
        // its number.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let kind = getsockopt(&socket, sockopt::SockType)?;
        let listener = if kind == SockType::Datagram {
            Self::Datagram(socket.into())
        } else if getsockopt(&socket, sockopt::AcceptConn)? {
            Self::Stream(socket.into())
        } else {
            return Err(Errno::EPROTOTYPE.into());
        };
        listener.address()?;
        Ok(listener)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(socket) => socket.as_fd(),
            Self::Datagram(socket) => socket.as_fd(),
        }
    }
}

/// Returns the descriptors that the service manager passed to this process.
#[must_use]
pub fn inherited() -> Vec<RawFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return vec![];
    }
    let count = number("LISTEN_FDS").and_then(|count| RawFd::try_from(count).ok());
    (FIRST..FIRST.saturating_add(count.unwrap_or(0))).collect()
}

fn bound(kind: SockType, address: Option<IpAddr>, port: u16) -> io::Result<OwnedFd> {
    let Some(address) = address else {
        return match at(kind, Ipv6Addr::UNSPECIFIED.into(), port, false) {
            // The kernel has no IPv6.
            Err(error)
                if matches!(
                    Errno::from_raw(error.raw_os_error().unwrap_or(0)),
                    Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL
                ) =>
            {
                at(kind, Ipv4Addr::UNSPECIFIED.into(), port, true)
            }
            bound => bound,
        };
    };
    at(kind, address, port, true)
}

fn at(kind: SockType, address: IpAddr, port: u16, only: bool) -> io::Result<OwnedFd> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &only)?;
    }
    if kind == SockType::Stream {
        // Old connections in TIME_WAIT must not block the port.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    let address = SockaddrStorage::from(SocketAddr::new(address, port));
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_is_taken_once() {
        let first = Listener::stream(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let address = first.address().unwrap();
        let second = Listener::stream(Some(address.ip()), address.port());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn every_address_is_of_both_kinds() {
        let all = Listener::stream(None, 0).unwrap();
        let port = all.address().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(Listener::stream(Some(Ipv4Addr::LOCALHOST.into()), port).is_err());
    }

    #[test]
    fn what_is_given_has_to_listen() {
        use std::os::fd::IntoRawFd;
        let listening = Listener::datagram(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let address = listening.address().unwrap();
        let Listener::Datagram(socket) = listening else {
            panic!("no datagrams");
        };
        let given = Listener::from_inherited(socket.into_raw_fd()).unwrap();
        assert_eq!(given.address().unwrap(), address);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Listener::from_inherited(file.into_raw_fd()).is_err());
        assert!(Listener::from_inherited(1_000_000).is_err());
    }
}
