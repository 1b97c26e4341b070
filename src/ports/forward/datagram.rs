//! Forwarding of datagrams. Each sender gets a socket of its own on the other side, for as long as datagrams
//! are sent or answered.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use guest_init::channel::wire::Kind;
use guest_init::tunnel::targets::{Targets, open_datagrams};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, sendmsg,
    setsockopt, sockopt,
};

use super::slots::MIN_BUFFER;
use super::{BATCH, Connector, Port, Token};
use crate::ports::listening::Listener;

/// Time after which a sender without answers is forgotten.
const QUIET: Duration = Duration::from_secs(90);

/// Maximum number of senders that are remembered, with any amount of memory; each needs a socket.
const MOST: usize = 4096;

/// Size of the longest datagram.
const LONGEST: usize = 1 << 16;

/// Epoll instance, and the connector that is tried last.
type Through<'a> = (&'a Epoll, Option<Connector<'a>>);

/// Recent senders.
#[derive(Debug)]
pub(super) struct Datagrams {
    sessions: HashMap<u64, Session>,
    /// Session ids by the port and the sender's address.
    known: HashMap<(usize, SocketAddr), u64>,
    buffer: Vec<u8>,
    most: usize,
    last: Instant,
}

#[derive(Debug)]
struct Session {
    port: usize,
    client: SocketAddr,
    /// Address of this host that the sender used; the answer has to come from it.
    local: Option<Local>,
    server: Server,
    targets: Targets,
    /// First datagram, until there is an answer: it may have to be sent to another target.
    first: Option<Vec<u8>>,
    last: Instant,
}

/// Non-blocking socket to the other side.
#[derive(Debug)]
enum Server {
    Socket(UdpSocket),
    /// Each message is a datagram; the other end belongs to the other side.
    Carried(OwnedFd),
}

impl Server {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Carried(socket) => socket.as_fd(),
        }
    }

    fn send(&self, datagram: &[u8]) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        nix::sys::socket::send(self.fd().as_raw_fd(), datagram, flags)
    }

    fn receive(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        match (
            self,
            recv(self.fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT),
        ) {
            (Self::Carried(_), Ok(0)) => Err(Errno::ECONNREFUSED),
            (_, received) => received,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Local {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Datagrams {
    /// Creates the table for `ports`, whose sockets report the destination address from now on, with at
    /// most `most` senders.
    pub(super) fn new(ports: &[Port], most: usize) -> io::Result<Self> {
        for port in ports {
            match (&port.listener, port.listener.address()?) {
                (Listener::Stream(_), _) => {}
                (Listener::Datagram(socket), SocketAddr::V4(_)) => {
                    setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
                }
                (Listener::Datagram(socket), SocketAddr::V6(_)) => {
                    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                }
            }
        }
        Ok(Self {
            sessions: HashMap::new(),
            known: HashMap::new(),
            buffer: vec![0; LONGEST],
            most: most.min(MOST),
            last: Instant::now(),
        })
    }

    /// Returns the time of the last forwarded datagram.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// Forwards the datagrams that wait at a port.
    pub(super) fn receive(
        &mut self,
        port: usize,
        socket: &UdpSocket,
        targets: &mut dyn FnMut() -> Targets,
        through: Through<'_>,
        next: &mut u64,
    ) {
        for _ in 0..BATCH {
            let Ok((length, client, local)) = receive(socket, &mut self.buffer) else {
                return;
            };
            let Some(client) = client else { continue };
            self.last = Instant::now();
            let id = match self.known.get(&(port, client)) {
                Some(id) => *id,
                None => {
                    *next += 1;
                    let mut targets = targets();
                    let Some(server) = connect(&mut targets, *next, through) else {
                        continue;
                    };
                    self.make_room();
                    let session = Session {
                        port,
                        client,
                        local,
                        server,
                        targets,
                        first: Some(self.buffer[..length].to_vec()),
                        last: self.last,
                    };
                    self.sessions.insert(*next, session);
                    self.known.insert((port, client), *next);
                    *next
                }
            };
            if let Some(session) = self.sessions.get_mut(&id) {
                session.last = self.last;
                session.local = local;
                // epoll reports a missing receiver; a datagram that does not fit is lost, as
                // datagrams are.
                let sent = session.server.send(&self.buffer[..length]);
                if sent.is_err_and(is_nobody) {
                    self.try_next_target(id, through);
                }
            }
        }
    }

    /// Forwards answers to their sender.
    pub(super) fn answer(&mut self, id: u64, ports: &[Port], through: Through<'_>) {
        for _ in 0..BATCH {
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            match session.server.receive(&mut self.buffer) {
                Ok(length) => {
                    session.first = None;
                    session.last = Instant::now();
                    self.last = session.last;
                    if let Some(Listener::Datagram(socket)) =
                        ports.get(session.port).map(|port| &port.listener)
                    {
                        let answer = &self.buffer[..length];
                        let _ = send(socket, answer, session.client, session.local);
                    }
                }
                Err(errno) if is_nobody(errno) => {
                    self.try_next_target(id, through);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Sends the first datagram of a session to its next target, because nobody listens at the last one,
    /// or forgets the session.
    fn try_next_target(&mut self, id: u64, through: Through<'_>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let again = session.first.as_ref().and_then(|first| {
            if matches!(session.server, Server::Carried(_)) {
                return None;
            }
            let server = connect(&mut session.targets, id, through)?;
            let _ = server.send(first);
            Some(server)
        });
        match again {
            Some(server) => session.server = server,
            None => self.forget(id),
        }
    }

    /// Forgets sessions that were quiet for long.
    pub(super) fn sweep(&mut self) {
        let quiet: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.last.elapsed() >= QUIET)
            .map(|(id, _)| *id)
            .collect();
        quiet.into_iter().for_each(|id| self.forget(id));
    }

    fn make_room(&mut self) {
        if self.sessions.len() < self.most {
            return;
        }
        let quietest = self.sessions.iter().min_by_key(|(_, session)| session.last);
        if let Some(id) = quietest.map(|(id, _)| *id) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(session) = self.sessions.remove(&id) {
            self.known.remove(&(session.port, session.client));
        }
    }
}

/// Returns whether the error means that nobody listens there.
fn is_nobody(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED | Errno::EPIPE | Errno::ECONNRESET
    )
}

/// Opens a socket to the next target, or through the connector.
fn connect(targets: &mut Targets, id: u64, (epoll, way): Through<'_>) -> Option<Server> {
    let event = || Token::Session(id).event(EpollFlags::EPOLLIN);
    while let Some(target) = targets.next() {
        let prepared = open_datagrams(target).and_then(|socket| {
            // One datagram always fits (socket(7), `SO_RCVBUF`).
            setsockopt(&socket, sockopt::RcvBuf, &(MIN_BUFFER / 2))?;
            epoll.add(&socket, event())?;
            Ok(socket)
        });
        match prepared {
            Ok(socket) => return Some(Server::Socket(socket)),
            Err(error) => targets.failed(&error),
        }
    }
    let carried = way?(Kind::Datagrams, targets.port()).ok()?;
    epoll.add(&carried.socket, event()).ok()?;
    Some(Server::Carried(carried.socket))
}

/// Receives a datagram; returns its length, its sender and its destination.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> nix::Result<(usize, Option<SocketAddr>, Option<Local>)> {
    let mut control = cmsg_space!(in6_pktinfo, in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let mut local = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(mut info) = part {
            // The source address is given; the interface is up to the routing table.
            info.ipi_ifindex = 0;
            local = Some(Local::V4(info));
        } else if let ControlMessageOwned::Ipv6PacketInfo(mut info) = part {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            if !address.is_unicast_link_local() {
                info.ipi6_ifindex = 0;
            }
            local = (!address.is_multicast()).then_some(Local::V6(info));
        }
    }
    let client = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in();
        let v6 = address.as_sockaddr_in6();
        v4.map(|v4| SocketAddrV4::from(*v4).into())
            .or_else(|| v6.map(|v6| SocketAddrV6::from(*v6).into()))
    });
    Ok((message.bytes, client, local))
}

fn send(
    socket: &UdpSocket,
    answer: &[u8],
    client: SocketAddr,
    local: Option<Local>,
) -> nix::Result<usize> {
    let control = local.as_ref().map(|local| match local {
        Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(answer)],
        control.as_slice(),
        MsgFlags::MSG_NOSIGNAL,
        Some(&SockaddrStorage::from(client)),
    )
}
