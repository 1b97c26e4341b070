//! A DHCPv4 client: gets an address, keeps it, and gives it to the kernel.
//!
//! The states are in [`client`], pure; here is the thin loop around them.
//!
//! It does not write resolv.conf and does not keep leases on disk: its caller is told of every
//! change. IPv6 needs no client, the kernel follows router advertisements by itself.

mod backoff;
pub mod client;
pub mod frame;
pub mod lease;
mod names;
pub mod packet;
mod socket;

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use netlink_packet_route::route::RouteProtocol;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};

pub use self::client::Known;
use self::client::{Action, Client, Identity, Listening};
pub use self::lease::{Lease, LeaseRoute};
use self::socket::Socket;
use crate::network::netlink::{Hop, Link, Netlink, NetlinkError};

/// poll(2) does not count the time the host sleeps, the lease does: look at the clock that often.
const LONGEST_POLL: Duration = Duration::from_secs(300);
/// Before a socket that failed is opened again; the link may be down for long.
const PAUSE: Duration = Duration::from_secs(2);
/// Routes of DHCP give way to those that were written down, and those of `eth1` to those of `eth0`.
const METRIC: u32 = 1024;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// A system call failed.
    #[error("{operation} on {nic}: {}", errno.desc())]
    System {
        /// What was tried.
        operation: &'static str,
        /// The interface.
        nic: String,
        /// What came of it.
        errno: Errno,
    },
    /// Nobody gave us an address in time.
    #[error("asking for an address on {nic}: no DHCP server answered within {seconds} s")]
    NoAnswer {
        /// The interface.
        nic: String,
        /// How long we waited.
        seconds: u64,
    },
}

/// A link that DHCP can be spoken on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The link.
    pub link: Link,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

impl Interface {
    /// `None` if the link has no Ethernet address.
    #[must_use]
    pub fn new(link: Link) -> Option<Self> {
        link.mac.map(|mac| Self { link, mac })
    }
}

/// What became of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// It holds: a new one, or the previous one for some more time.
    Obtained {
        /// What holds.
        lease: Lease,
        /// What held until now.
        previous: Option<Lease>,
    },
    /// It expired or was refused, and another is being sought.
    Lost(Lease),
}

/// Gets a lease, which [`apply`] then puts to use. The link has to be up.
///
/// The address `wanted` is asked for first, which takes but an instant if the server knows us or may give it; to
/// find one takes the server some seconds if it looks whether it is free.
pub fn acquire(
    nic: &Interface,
    hostname: &str,
    wanted: Option<Ipv4Addr>,
    deadline: Duration,
) -> Result<Lease, DhcpError> {
    let now = boottime(nic)?;
    let end = now.saturating_add(deadline);
    let known = wanted.map_or(Known::Nothing, Known::Address);
    let client = Client::new(identity(nic, hostname), known, seed(now), now);
    let mut session = Session::new(nic, client);
    while boottime(nic)? < end {
        for event in session.step(Some(end))? {
            match event {
                LeaseEvent::Obtained { lease, .. } => return Ok(lease),
                LeaseEvent::Lost(_) => {}
            }
        }
    }
    Err(DhcpError::NoAnswer {
        nic: nic.link.name.clone(),
        seconds: deadline.as_secs(),
    })
}

/// Keeps what is `known` as long as the process lives, and seeks another lease when it is lost; with nothing it
/// begins by seeking. The kernel's configuration follows; `on_change` is called afterwards.
pub fn maintain(
    nic: &Interface,
    hostname: &str,
    known: Known,
    mut on_change: impl FnMut(&LeaseEvent),
) -> ! {
    let now = loop {
        match boottime(nic) {
            Ok(now) => break now,
            Err(error) => pause(&error),
        }
    };
    let client = Client::new(identity(nic, hostname), known, seed(now), now);
    let mut session = Session::new(nic, client);
    loop {
        let events = session.step(None).unwrap_or_else(|error| {
            pause(&error);
            Vec::new()
        });
        for event in &events {
            let applied = match event {
                LeaseEvent::Obtained { lease, previous } => {
                    apply(&nic.link, lease, previous.as_ref())
                }
                LeaseEvent::Lost(lease) => withdraw(&nic.link, lease),
            };
            if let Err(error) = applied {
                log::warn!("{error}");
            }
            on_change(event);
        }
    }
}

/// Whether a lease of an earlier run still holds, by the clock that counts from the host's boot.
///
/// One without end is said not to: were its server gone, nothing would ever take it back, so it is
/// better asked for anew.
#[must_use]
pub fn still_holds(lease: &Lease) -> bool {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| Duration::from(now).as_secs());
    let expiry = lease
        .terms
        .map(|terms| lease.obtained.saturating_add(terms.expiry.into()));
    // A lease of the future is one of another boot, see `Lease::of_another_boot`.
    lease.obtained <= now && expiry.is_some_and(|expiry| now < expiry)
}

/// Gives a lease to the kernel: address, MTU and routes, instead of those of the previous one. To do
/// so again changes nothing.
///
/// Fails if the address cannot be set; a route or MTU that the kernel refuses is logged.
pub fn apply(link: &Link, lease: &Lease, previous: Option<&Lease>) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let hops = hops(link, lease);
    if let Some(previous) = previous {
        if previous.as_address() == lease.as_address() {
            for hop in self::hops(link, previous) {
                if !hops.contains(&hop) {
                    warn(netlink.remove_route(link, &hop));
                }
            }
        } else {
            // Its routes go with it.
            netlink.remove_address(link, &previous.as_address())?;
        }
    }
    netlink.add_address(link, &lease.as_address())?;
    if let Some(mtu) = lease.mtu {
        warn(netlink.set_mtu(link, mtu));
    }
    for hop in &hops {
        warn(netlink.set_route(link, hop));
    }
    Ok(())
}

/// Takes a lease from the kernel again.
pub fn withdraw(link: &Link, lease: &Lease) -> Result<(), NetlinkError> {
    Netlink::open()?.remove_address(link, &lease.as_address())
}

fn warn(result: Result<(), NetlinkError>) {
    if let Err(error) = result {
        log::warn!("{error}");
    }
}

/// The routes of a lease; those on the link first, as gateways may be reached through them.
fn hops(link: &Link, lease: &Lease) -> Vec<Hop> {
    let mut hops: Vec<Hop> = lease
        .routes
        .iter()
        .map(|route| Hop {
            network: route.network.into(),
            prefix: route.prefix,
            gateway: route.gateway.map(Into::into),
            gateway_on_link: route.gateway.is_some_and(|gateway| !lease.reaches(gateway)),
            source: Some(lease.address.into()),
            metric: METRIC.saturating_add(link.index),
            protocol: RouteProtocol::Dhcp,
        })
        .collect();
    hops.sort_by_key(|hop| hop.gateway.is_some());
    hops
}

fn identity(nic: &Interface, hostname: &str) -> Identity {
    Identity {
        mac: nic.mac,
        hostname: hostname.to_owned(),
    }
}

/// Early in the boot of a host the kernel's random numbers may be missing; the time will do.
fn seed(now: Duration) -> u64 {
    getrandom::u64().unwrap_or(now.as_nanos() as u64)
}

fn boottime(nic: &Interface) -> Result<Duration, DhcpError> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .map_err(system(nic, "reading the clock"))
}

fn system(nic: &Interface, operation: &'static str) -> impl FnOnce(Errno) -> DhcpError {
    let nic = nic.link.name.clone();
    move |errno| DhcpError::System {
        operation,
        nic,
        errno,
    }
}

fn pause(error: &DhcpError) {
    log::debug!("{error}");
    thread::sleep(PAUSE);
}

/// A client with its sockets.
struct Session<'a> {
    nic: &'a Interface,
    client: Client,
    socket: Option<Socket>,
}

impl<'a> Session<'a> {
    fn new(nic: &'a Interface, client: Client) -> Self {
        Self {
            nic,
            client,
            socket: None,
        }
    }

    /// Waits for what comes first of a packet, the client's deadline and `limit`, and deals with it.
    fn step(&mut self, limit: Option<Duration>) -> Result<Vec<LeaseEvent>, DhcpError> {
        let now = boottime(self.nic)?;
        if self.client.deadline().is_some_and(|due| due <= now) {
            let actions = self.client.timer(now);
            return self.perform(actions);
        }
        self.listen()?;
        let until = [self.client.deadline(), limit].into_iter().flatten().min();
        let wait = until.map_or(LONGEST_POLL, |until| until.saturating_sub(now));
        let Some(socket) = self.socket.as_ref() else {
            self.wait(&mut [], wait)?;
            return Ok(Vec::new());
        };
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if self.wait(&mut fds, wait)? == 0 {
            return Ok(Vec::new());
        }
        let message = match socket.receive() {
            Ok(message) => message,
            Err(errno) => {
                // The link went down, most likely; the timers go on.
                self.socket = None;
                pause(&system(self.nic, "receiving")(errno));
                return Ok(Vec::new());
            }
        };
        let Some(message) = message else {
            return Ok(Vec::new());
        };
        log::debug!("{}: received {:?}", self.nic.link.name, message.kind);
        let actions = self.client.received(&message, boottime(self.nic)?);
        self.perform(actions)
    }

    fn wait(&self, fds: &mut [PollFd], wait: Duration) -> Result<i32, DhcpError> {
        // Rounded up, not to come round again and again in the last millisecond.
        let milliseconds = wait.min(LONGEST_POLL).as_millis() as i32 + 1;
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(fds, timeout) {
            Err(Errno::EINTR) => Ok(0),
            polled => polled.map_err(system(self.nic, "waiting for packets")),
        }
    }

    /// Opens the socket the client wants, and closes the other.
    fn listen(&mut self) -> Result<(), DhcpError> {
        match (self.client.listening(), &self.socket) {
            (Listening::No, _) => self.socket = None,
            (Listening::Packets, Some(Socket::Packets(_)))
            | (Listening::Datagrams, Some(Socket::Datagrams(_))) => {}
            (Listening::Packets, _) => {
                let opened = Socket::packets(self.nic);
                self.socket = Some(opened.map_err(system(self.nic, "opening a packet socket"))?);
            }
            (Listening::Datagrams, _) => {
                let opened = Socket::datagrams(self.nic);
                self.socket = Some(opened.map_err(system(self.nic, "opening UDP port 68"))?);
            }
        }
        Ok(())
    }

    /// Does what the client says. A message that cannot be sent counts as one that was lost: it is
    /// sent again.
    fn perform(&mut self, actions: Vec<Action>) -> Result<Vec<LeaseEvent>, DhcpError> {
        let mut events = Vec::new();
        for action in actions {
            match action {
                Action::Send(message, destination) => {
                    self.listen()?;
                    log::debug!("{}: sending {:?}", self.nic.link.name, message.kind);
                    let sent = self.socket.as_ref().map_or(Ok(()), |socket| {
                        socket.send(self.nic, &message, destination)
                    });
                    if let Err(errno) = sent {
                        log::debug!("{}", system(self.nic, "sending")(errno));
                    }
                }
                Action::Configure { lease, previous } => {
                    events.push(LeaseEvent::Obtained { lease, previous });
                }
                Action::Deconfigure(lease) => events.push(LeaseEvent::Lost(lease)),
            }
        }
        Ok(events)
    }
}
