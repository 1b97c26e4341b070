//! DHCPv4 client: obtains and renews a lease and configures the kernel.
//!
//! The states are in [`client`], which is pure; this module has the loop around it. The caller writes resolv.conf and stores leases: it
//! gets every change. IPv6 needs no client, since the kernel handles router advertisements.

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

/// Longest wait between checks of the clock: poll(2) does not count time that the host sleeps, but a lease does.
const LONGEST_POLL: Duration = Duration::from_secs(300);
/// Delay before a failed socket is opened again; the link may be down for long.
const PAUSE: Duration = Duration::from_secs(2);
/// Metric of routes from DHCP, plus the index of the link: static routes take precedence, and `eth0` over `eth1`.
const METRIC: u32 = 1024;

/// Failure to obtain a lease.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// A system call failed.
    #[error("{operation} on {nic}: {}", errno.desc())]
    System {
        /// Failed operation.
        operation: &'static str,
        /// The interface.
        nic: String,
        /// Error of the system call.
        errno: Errno,
    },
    /// No server has answered in time.
    #[error("asking for an address on {nic}: no DHCP server answered within {seconds} s")]
    NoAnswer {
        /// The interface.
        nic: String,
        /// Seconds waited.
        seconds: u64,
    },
}

/// Link that DHCP can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The link.
    pub link: Link,
    /// Ethernet address.
    pub mac: [u8; 6],
}

impl Interface {
    /// Returns the interface of a link; `None` without an Ethernet address.
    #[must_use]
    pub fn new(link: Link) -> Option<Self> {
        link.mac.map(|mac| Self { link, mac })
    }
}

/// Change of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A lease was obtained or renewed.
    Obtained {
        /// Lease from now on.
        lease: Lease,
        /// Lease until now.
        previous: Option<Lease>,
    },
    /// A lease has expired or was refused; the client looks for another.
    Lost(Lease),
}

/// Obtains a lease for a link that is up. [`apply`] configures it.
///
/// The address `wanted` is requested first: a server grants it at once if it can, while it takes seconds to check that a new address is
/// free.
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
        for event in session.poll_once(Some(end))? {
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

/// Renews the `known` lease for ever, and obtains a new one if there is none or it is lost. Configures the kernel at every change, then
/// calls `on_change`.
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
        let events = session.poll_once(None).unwrap_or_else(|error| {
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

/// Returns whether a lease of an earlier run has not expired, by the clock since the boot of the host.
///
/// An infinite lease counts as expired: it has to be confirmed, since it would otherwise outlive its server.
#[must_use]
pub fn still_holds(lease: &Lease) -> bool {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| Duration::from(now).as_secs());
    let expiry = lease
        .terms
        .map(|terms| lease.obtained.saturating_add(terms.expiry.into()));
    // A lease of another boot is in the future, see `Lease::of_another_boot`.
    lease.obtained <= now && expiry.is_some_and(|expiry| now < expiry)
}

/// Configures address, MTU and routes of a lease, replacing those of the previous one. Repeating it changes nothing.
///
/// Fails if the address cannot be set; a failed route or MTU is logged.
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
            // The kernel removes its routes as well.
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

/// Removes the configuration of a lease.
pub fn withdraw(link: &Link, lease: &Lease) -> Result<(), NetlinkError> {
    Netlink::open()?.remove_address(link, &lease.as_address())
}

fn warn(result: Result<(), NetlinkError>) {
    if let Err(error) = result {
        log::warn!("{error}");
    }
}

/// Returns the routes of a lease. Routes on the link come first, since a gateway may be reached through them.
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

/// Returns a seed. The kernel may have no random numbers early in the boot; then the time is used.
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

/// A client and its socket.
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

    /// Waits for a packet, the client's deadline or `limit`, and handles the first of them.
    fn poll_once(&mut self, limit: Option<Duration>) -> Result<Vec<LeaseEvent>, DhcpError> {
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
                // Most likely the link is down. The timers go on.
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
        // Rounded up, to avoid a busy loop in the last millisecond.
        let milliseconds = wait.min(LONGEST_POLL).as_millis() as i32 + 1;
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(fds, timeout) {
            Err(Errno::EINTR) => Ok(0),
            polled => polled.map_err(system(self.nic, "waiting for packets")),
        }
    }

    /// Opens the socket that the client needs, and closes the other.
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

    /// Carries out actions of the client. A message that cannot be sent is treated as lost, and sent again later.
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
