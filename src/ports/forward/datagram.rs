//! Datagrams that are passed on. Who sends any gets a socket of its own on the other side, for as long as something is sent or
//! answered.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use guest_init::channel::wire::Kind;
use guest_init::tunnel::targets::{Targets, datagrams};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recv, recvmsg, sendmsg,
    setsockopt, sockopt,
};

use super::seats::LEAST;
use super::{Port, TURN, Token, Way};
use crate::ports::listening::Listener;

/// How long who sends and is not answered any more is remembered.
const QUIET: Duration = Duration::from_secs(90);

/// Most that are remembered, however much memory there is; each is a socket.
const MOST: usize = 4096;

/// The longest datagram there is.
const LONGEST: usize = 1 << 16;

/// What tells of changes, and the way in that is tried last.
type Through<'a> = (&'a Epoll, Option<Way<'a>>);

/// All who have sent something lately.
#[derive(Debug)]
pub(super) struct Datagrams {
    sessions: HashMap<u64, Session>,
    /// By the port that was sent to, and who sent.
    known: HashMap<(usize, SocketAddr), u64>,
    buffer: Vec<u8>,
    most: usize,
    last: Instant,
}

#[derive(Debug)]
struct Session {
    port: usize,
    client: SocketAddr,
    /// The address of this host that was sent to, and so has to answer.
    local: Option<Local>,
    server: Server,
    targets: Targets,
    /// What was sent first, until there is an answer: it may have to be sent elsewhere.
    first: Option<Vec<u8>>,
    last: Instant,
}

/// A socket to the other side; neither waits.
#[derive(Debug)]
enum Server {
    Socket(UdpSocket),
    /// Each message is a datagram, and the end is that of the other side.
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
    /// For `ports`, whose sockets tell from now on which address was sent to; at most `most` who send are remembered.
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

    /// When something was passed on last.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// Passes on what has come to a port.
    pub(super) fn receive(
        &mut self,
        port: usize,
        socket: &UdpSocket,
        targets: &mut dyn FnMut() -> Targets,
        through: Through<'_>,
        next: &mut u64,
    ) {
        for _ in 0..TURN {
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
                    let Some(server) = reach(&mut targets, *next, through) else {
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
                // One that finds nobody is told of by epoll; one that does not fit is lost, as datagrams are.
                let sent = session.server.send(&self.buffer[..length]);
                if sent.is_err_and(is_nobody) {
                    self.elsewhere(id, through);
                }
            }
        }
    }

    /// Passes answers back.
    pub(super) fn answer(&mut self, id: u64, ports: &[Port], through: Through<'_>) {
        for _ in 0..TURN {
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
                    self.elsewhere(id, through);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Nobody has listened where a session sent to: sends what was first to the next target, or forgets it.
    fn elsewhere(&mut self, id: u64, through: Through<'_>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let again = session.first.as_ref().and_then(|first| {
            if matches!(session.server, Server::Carried(_)) {
                return None;
            }
            let server = reach(&mut session.targets, id, through)?;
            let _ = server.send(first);
            Some(server)
        });
        match again {
            Some(server) => session.server = server,
            None => self.forget(id),
        }
    }

    /// Forgets who has been quiet for long.
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

/// Whether nobody is there who would have what was sent.
fn is_nobody(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNREFUSED | Errno::EPIPE | Errno::ECONNRESET
    )
}

/// A socket to the next target, or by the way that is no target.
fn reach(targets: &mut Targets, id: u64, (epoll, way): Through<'_>) -> Option<Server> {
    let event = || Token::Session(id).event(EpollFlags::EPOLLIN);
    while let Some(target) = targets.next() {
        let prepared = datagrams(target).and_then(|socket| {
            // One datagram always has room (socket(7), `SO_RCVBUF`).
            setsockopt(&socket, sockopt::RcvBuf, &(LEAST / 2))?;
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

/// A datagram that has come: its length, who sent it, and where to.
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
            // The address that answers is said, the way it takes is for the routing table to say.
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
