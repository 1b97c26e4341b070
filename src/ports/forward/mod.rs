//! Forwarding from ports of this host into another network namespace, whatever addresses it has, or through a
//! connector that does not use the network.
//!
//! One thread does all of it. It enters the namespace while it serves: a socket belongs to the namespace in
//! which it was created, so the listening sockets stay on the host, and no connection is ever made in the
//! host's namespace. With a connector this side connects to no address at all: otherwise the other side could
//! choose it.
//!
//! The other side sees one of its own addresses as the peer; the loopback address is used only if nobody
//! listens elsewhere: see [`guest_init::tunnel::targets`].

mod datagram;
mod slots;
mod stream;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use guest_init::channel::wire::{Kind, WINDOW};
use guest_init::tunnel::Connection;
use guest_init::tunnel::targets::Targets;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::ports::listening::Listener;
use crate::sys::process::cpu_quota::CpuQuota;
use datagram::Datagrams;
use slots::Slots;
use stream::{Pipes, Progress, Stream};

/// Port of this host with its destination.
#[derive(Debug)]
pub struct Port {
    /// Listening socket.
    pub listener: Listener,
    /// Port on the other side.
    pub target: u16,
}

/// The other side.
#[expect(
    missing_debug_implementations,
    reason = "functions have nothing to show"
)]
pub struct Destination<'a> {
    /// Way to reach it.
    pub reach: Reach<'a>,
    /// Returns whether the other side is still running.
    pub is_there: &'a dyn Fn() -> bool,
    /// Memory of the other side in bytes. It determines the number of simultaneous connections and the
    /// size of their buffers.
    pub memory: u64,
    /// CPU time that forwarding may take.
    pub cpu: &'a CpuQuota,
}

/// Way to reach the other side.
#[expect(
    missing_debug_implementations,
    reason = "functions have nothing to show"
)]
pub enum Reach<'a> {
    /// In its network namespace, which is not ours.
    Network {
        /// Network namespace of the other side.
        namespace: File,
        /// Returns the addresses in the namespace, except the loopback ones.
        addresses: &'a dyn Fn() -> Vec<IpAddr>,
    },
    /// Through a connector, without the network.
    Connector(Connector<'a>),
}

/// Opens a socket that leads to a port of the other side.
pub type Connector<'a> = &'a dyn Fn(Kind, u16) -> io::Result<Connection>;

/// Reason why serving has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has ended.
    Gone,
    /// No connection was open for the idle time.
    Idle,
    /// The caller stopped it.
    Stopped,
}

/// Interval between two looks at whether to end.
const LOOK: Duration = Duration::from_millis(100);

/// Interval between two sweeps of idle sessions.
const SWEEP: Duration = Duration::from_secs(1);

/// Maximum number of addresses that are tried for a connection: root inside can configure thousands.
const MOST_ADDRESSES: usize = 64;

/// Connections or datagrams that one socket handles before the others get their turn.
const BATCH: usize = 64;

/// Serves `ports` until the other side ends, `stop` returns true, or no connection was open for `idle`.
///
/// # Errors
/// If the namespace cannot be entered, or is the host's.
pub fn serve(
    ports: &[Port],
    place: &Destination<'_>,
    idle: Option<Duration>,
    stop: &dyn Fn() -> bool,
) -> io::Result<Outcome> {
    let within = match &place.reach {
        Reach::Network { namespace, .. } => Some(Within::enter(namespace)?),
        Reach::Connector(_) => None,
    };
    let end = Serving::new(ports, place)?.run(idle, stop);
    drop(within);
    end
}

/// Thread in another network namespace; returns to its own on drop.
struct Within {
    own: File,
}

impl Within {
    fn enter(namespace: &File) -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?;
        if own.metadata()?.ino() == namespace.metadata()?.ino() {
            // Connections there would be connections on the host.
            return Err(io::Error::other(
                "it has the network of the host and none of its own",
            ));
        }
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(Self { own })
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.own, CloneFlags::CLONE_NEWNET) {
            log::error!("returning to the host's network: {error}");
        }
    }
}

/// Cached addresses in the namespace; none without a namespace.
struct Addresses<'a> {
    ask: Option<&'a dyn Fn() -> Vec<IpAddr>>,
    known: Vec<IpAddr>,
    asked: Option<Instant>,
}

impl Addresses<'_> {
    fn targets(&mut self, port: u16) -> Targets {
        if let Some(ask) = self.ask
            && self.asked.is_none_or(|asked| asked.elapsed() > SWEEP)
        {
            self.known = ask();
            self.known.truncate(MOST_ADDRESSES);
            self.asked = Some(Instant::now());
        }
        Targets::new(self.known.clone(), port, self.ask.is_some())
    }
}

/// Source of an epoll event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// Listening socket of a port.
    Port(usize),
    /// Connection that can make progress.
    Stream(u64),
    /// Session with an answer.
    Session(u64),
}

impl Token {
    fn event(self, flags: EpollFlags) -> EpollEvent {
        let (kind, number) = match self {
            Self::Port(index) => (0, index as u64),
            Self::Stream(id) => (1, id),
            Self::Session(id) => (2, id),
        };
        EpollEvent::new(flags, number << 2 | kind)
    }

    fn of(event: &EpollEvent) -> Self {
        let number = event.data() >> 2;
        match event.data() & 3 {
            0 => Self::Port(number as usize),
            1 => Self::Stream(number),
            _ => Self::Session(number),
        }
    }
}

struct Serving<'a> {
    ports: &'a [Port],
    is_there: &'a dyn Fn() -> bool,
    way: Option<Connector<'a>>,
    addresses: Addresses<'a>,
    epoll: Epoll,
    streams: HashMap<u64, Stream>,
    datagrams: Datagrams,
    pipes: Pipes,
    /// Connections with more data than one turn allows.
    again: Vec<u64>,
    next: u64,
    slots: Slots,
    cpu: &'a CpuQuota,
    is_listening: bool,
    last: Instant,
}

impl<'a> Serving<'a> {
    fn new(ports: &'a [Port], place: &Destination<'a>) -> io::Result<Self> {
        let (ask, way) = match place.reach {
            Reach::Network { addresses, .. } => (Some(addresses), None),
            Reach::Connector(way) => (None, Some(way)),
        };
        let slots = Slots::of(place.memory, way.map_or(0, |_| WINDOW.into()));
        for port in ports {
            slots::bound_listener(&port.listener)?;
        }
        let mut serving = Self {
            ports,
            is_there: place.is_there,
            way,
            addresses: Addresses {
                ask,
                known: vec![],
                asked: None,
            },
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            streams: HashMap::new(),
            datagrams: Datagrams::new(ports, slots.most())?,
            pipes: Pipes::default(),
            again: vec![],
            next: 0,
            slots,
            cpu: place.cpu,
            is_listening: false,
            last: Instant::now(),
        };
        serving.listen(true)?;
        Ok(serving)
    }

    fn run(mut self, idle: Option<Duration>, stop: &dyn Fn() -> bool) -> io::Result<Outcome> {
        let mut events = [EpollEvent::empty(); 256];
        let mut looked = Instant::now();
        let mut swept = looked;
        while !stop() {
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if !(self.is_there)() {
                    return Ok(Outcome::Gone);
                }
            }
            if self.cpu.pause() {
                continue;
            }
            let patience = match self.again.as_slice() {
                [] => EpollTimeout::try_from(LOOK).map_err(io::Error::other)?,
                _ => EpollTimeout::ZERO,
            };
            let count = match self.epoll.wait(&mut events, patience) {
                Err(Errno::EINTR) => continue,
                waited => waited?,
            };
            for token in events.iter().take(count).map(Token::of) {
                match token {
                    Token::Port(index) => self.serve_port(index)?,
                    Token::Stream(id) => self.advance(id),
                    Token::Session(id) => {
                        self.datagrams
                            .answer(id, self.ports, (&self.epoll, self.way));
                    }
                }
            }
            for id in std::mem::take(&mut self.again) {
                self.advance(id);
            }
            if !self.streams.is_empty() {
                self.last = Instant::now();
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.datagrams.sweep();
                self.listen(!self.slots.are_taken())?;
            }
            let quiet = self.last.max(self.datagrams.last()).elapsed();
            if idle.is_some_and(|idle| quiet >= idle) {
                return Ok(Outcome::Idle);
            }
        }
        Ok(Outcome::Stopped)
    }

    /// Adds or removes the listening sockets; meanwhile new connections wait in the kernel's queue.
    fn listen(&mut self, wanted: bool) -> io::Result<()> {
        if wanted == self.is_listening {
            return Ok(());
        }
        for (index, port) in self.ports.iter().enumerate() {
            if wanted {
                let event = Token::Port(index).event(EpollFlags::EPOLLIN);
                self.epoll.add(port.listener.as_fd(), event)?;
            } else {
                self.epoll.delete(port.listener.as_fd())?;
            }
        }
        self.is_listening = wanted;
        Ok(())
    }

    fn serve_port(&mut self, index: usize) -> io::Result<()> {
        let ports = self.ports;
        let Some(port) = ports.get(index) else {
            return Ok(());
        };
        let listener = match &port.listener {
            Listener::Stream(listener) => listener,
            Listener::Datagram(socket) => {
                let addresses = &mut self.addresses;
                let targets = &mut || addresses.targets(port.target);
                let through = (&self.epoll, self.way);
                self.datagrams
                    .receive(index, socket, targets, through, &mut self.next);
                return Ok(());
            }
        };
        for _ in 0..BATCH {
            if self.slots.are_taken() {
                return self.listen(false);
            }
            match listener.accept() {
                Ok((client, address)) => {
                    let Some(slot) = self.slots.take(address.ip()) else {
                        stream::reset(&client);
                        continue;
                    };
                    self.next += 1;
                    let (id, targets) = (self.next, self.addresses.targets(port.target));
                    let through = (&self.epoll, self.way);
                    match Stream::begin(client, targets, id, through, slot) {
                        Ok(stream) => {
                            self.streams.insert(id, stream);
                            self.last = Instant::now();
                        }
                        Err(slot) => self.slots.give(&slot),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client went away before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // No descriptors or no memory: other connections have to end first.
                Err(_) => return self.listen(false),
            }
        }
        Ok(())
    }

    fn advance(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match stream.advance(id, (&self.epoll, self.way), &mut self.pipes) {
            Progress::Blocked => {}
            Progress::Ready => self.again.push(id),
            Progress::Closed => {
                if let Some(stream) = self.streams.remove(&id) {
                    self.slots.give(stream.slot());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
