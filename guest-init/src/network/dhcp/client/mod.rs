//! States of a DHCP client (RFC 2131, figure 5), without sockets and clocks.
//!
//! The input is the time and received messages; the output is actions and a deadline. The loop in [`super`] carries them out.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::network::dhcp::backoff::{Random, confirmation_wait, renewal_wait};
use crate::network::dhcp::lease::Lease;
use crate::network::dhcp::packet::{Kind, Message, option};

/// Options requested from servers.
const PARAMETERS: [u8; 8] = [
    option::SUBNET_MASK,
    // Before the router, as RFC 3442 requires.
    option::CLASSLESS_ROUTES,
    option::ROUTER,
    option::DNS,
    option::DOMAIN_NAME,
    option::DOMAIN_SEARCH,
    option::BROADCAST,
    option::MTU,
];
/// Largest DHCP message accepted, in bytes: an Ethernet packet without its headers.
const MAX_SIZE: u16 = 1472;
/// Requests for an offered address before the client looks for another offer.
const REQUESTS: u32 = 4;

/// Identity of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Ethernet address, also used as the client id.
    pub mac: [u8; 6],
    /// Host name sent to the server; none if empty.
    pub hostname: String,
}

/// Knowledge that a client starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// No address.
    Nothing,
    /// Address to request first.
    Address(Ipv4Addr),
    /// Lease of an earlier run, not expired and in use. The server is asked to confirm it.
    Remembered(Lease),
    /// Lease that the server has just granted.
    Confirmed(Lease),
}

/// Action of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send(Message, Destination),
    /// Configure a new or renewed lease.
    Configure {
        /// Lease from now on.
        lease: Lease,
        /// Lease until now.
        previous: Option<Lease>,
    },
    /// Remove the configuration of a lease.
    Deconfigure(Lease),
}

/// Destination of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Broadcast, without a source address.
    Unconfigured,
    /// Broadcast from our address.
    Broadcast,
    /// Our server, from our address.
    Server(Ipv4Addr),
}

/// Socket on which a client expects answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// No answer is expected.
    No,
    /// Packet socket, while there is no address.
    Packets,
    /// UDP socket.
    Datagrams,
}

#[derive(Debug, Clone)]
enum State {
    /// Before the first message of a round.
    Init,
    /// DISCOVER was sent.
    Selecting,
    /// REQUEST was sent for an offer.
    Requesting { offer: Lease },
    /// REQUEST was sent for a known address.
    Rebooting {
        address: Ipv4Addr,
        /// Lease of an earlier run that has not expired. It is in use until a server refuses it.
        held: Option<Box<Lease>>,
    },
    /// A lease is in use.
    Bound { lease: Lease },
    /// REQUEST was sent to the server of the lease.
    Renewing { lease: Lease },
    /// REQUEST was sent to all servers.
    Rebinding { lease: Lease },
}

/// A DHCP client.
#[derive(Debug, Clone)]
pub struct Client {
    identity: Identity,
    state: State,
    random: Random,
    /// Id of the current transaction.
    xid: u32,
    /// Messages sent in this state.
    sent: u32,
    /// Start of the search for an address.
    began: Duration,
    /// Time of the last message: a lease counts from its request (RFC 2131, 4.4.1).
    asked: Duration,
    /// Failed rounds in a row.
    failures: u32,
    deadline: Duration,
}

impl Client {
    /// Returns a client with this knowledge. All times are on `CLOCK_BOOTTIME`; `seed` is for transaction ids and jitter.
    #[must_use]
    pub fn new(identity: Identity, known: Known, seed: u64, now: Duration) -> Self {
        let mut random = Random::new(seed);
        let mut client = Self {
            identity,
            state: State::Init,
            xid: random.next(),
            random,
            sent: 0,
            began: now,
            asked: now,
            failures: 0,
            deadline: now,
        };
        client.state = match known {
            Known::Nothing => State::Init,
            Known::Address(address) => State::Rebooting {
                address,
                held: None,
            },
            Known::Remembered(lease) => State::Rebooting {
                address: lease.address,
                held: Some(Box::new(lease)),
            },
            Known::Confirmed(lease) => {
                client.bind(lease);
                return client;
            }
        };
        client
    }

    /// Returns the time to call [`Self::timer`]; `None` for never.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        (self.deadline != Duration::MAX).then_some(self.deadline)
    }

    /// Returns the socket on which answers are expected.
    #[must_use]
    pub fn listening(&self) -> Listening {
        match self.state {
            State::Bound { .. } => Listening::No,
            State::Renewing { .. } | State::Rebinding { .. } => Listening::Datagrams,
            State::Init | State::Selecting | State::Requesting { .. } | State::Rebooting { .. } => {
                Listening::Packets
            }
        }
    }

    /// Handles the deadline.
    pub fn timer(&mut self, now: Duration) -> Vec<Action> {
        if now < self.deadline {
            return Vec::new();
        }
        match self.state.clone() {
            State::Init => {
                self.enter(State::Selecting);
                vec![self.discover(now)]
            }
            State::Selecting => vec![self.discover(now)],
            State::Requesting { offer } if self.sent < REQUESTS => {
                vec![self.request_offer(&offer, now)]
            }
            State::Requesting { .. } => {
                self.restart(now);
                Vec::new()
            }
            State::Rebooting { address, held } => match confirmation_wait(self.sent) {
                Some(wait) => {
                    let mut message = self.message(Kind::Request, now);
                    put_address(&mut message, option::REQUESTED_ADDRESS, address);
                    self.wait(now, wait);
                    vec![Action::Send(message, Destination::Unconfigured)]
                }
                // Without an answer, a lease that has not expired may be used further (RFC 2131, 3.2).
                None => match held {
                    Some(lease) => {
                        self.bind(*lease);
                        Vec::new()
                    }
                    None => {
                        self.enter(State::Selecting);
                        vec![self.discover(now)]
                    }
                },
            },
            State::Bound { lease } => {
                self.enter(State::Renewing {
                    lease: lease.clone(),
                });
                self.began = now;
                self.renew(lease, now)
            }
            State::Renewing { lease } | State::Rebinding { lease } => self.renew(lease, now),
        }
    }

    /// Handles a received message.
    pub fn received(&mut self, message: &Message, now: Duration) -> Vec<Action> {
        if message.xid != self.xid || message.mac != self.identity.mac {
            return Vec::new();
        }
        let server = message.address(option::SERVER);
        match (message.kind, self.state.clone()) {
            (Kind::Offer, State::Selecting) => {
                let Some(offer) = Lease::from_message(message, self.asked) else {
                    return Vec::new();
                };
                // The transaction keeps the id of the offer (RFC 2131, 4.4.1).
                self.state = State::Requesting {
                    offer: offer.clone(),
                };
                self.sent = 0;
                vec![self.request_offer(&offer, now)]
            }
            (Kind::Ack, State::Requesting { offer }) if server == Some(offer.server) => {
                self.acknowledged(message, None)
            }
            (Kind::Ack, State::Rebooting { held, .. }) => {
                self.acknowledged(message, held.map(|lease| *lease))
            }
            (Kind::Ack, State::Renewing { lease } | State::Rebinding { lease }) => {
                self.acknowledged(message, Some(lease))
            }
            (Kind::Nak, State::Requesting { offer }) if server == Some(offer.server) => {
                self.restart(now);
                Vec::new()
            }
            (Kind::Nak, State::Rebooting { held, .. }) => {
                self.restart(now);
                held.map(|lease| Action::Deconfigure(*lease))
                    .into_iter()
                    .collect()
            }
            (Kind::Nak, State::Renewing { lease } | State::Rebinding { lease }) => {
                self.restart(now);
                vec![Action::Deconfigure(lease)]
            }
            _ => Vec::new(),
        }
    }

    fn acknowledged(&mut self, message: &Message, previous: Option<Lease>) -> Vec<Action> {
        let Some(lease) = Lease::from_message(message, self.asked) else {
            return Vec::new();
        };
        self.failures = 0;
        self.bind(lease.clone());
        vec![Action::Configure { lease, previous }]
    }

    fn bind(&mut self, lease: Lease) {
        self.deadline = match lease.terms {
            Some(terms) => after(&lease, terms.renewal),
            None => Duration::MAX,
        };
        self.enter(State::Bound { lease });
    }

    /// Starts a new search: at once the first time, then with growing delays, so that a server that always refuses is not flooded.
    fn restart(&mut self, now: Duration) {
        self.enter(State::Init);
        self.began = now;
        self.deadline = match self.failures {
            0 => now,
            failures => now + self.random.backoff(failures - 1),
        };
        self.failures = self.failures.saturating_add(1);
    }

    /// Changes the state and starts a new transaction.
    fn enter(&mut self, state: State) {
        self.state = state;
        self.xid = self.random.next();
        self.sent = 0;
    }

    fn discover(&mut self, now: Duration) -> Action {
        let message = self.message(Kind::Discover, now);
        let wait = self.random.search_wait(self.sent);
        self.wait(now, wait);
        Action::Send(message, Destination::Unconfigured)
    }

    fn request_offer(&mut self, offer: &Lease, now: Duration) -> Action {
        let mut message = self.message(Kind::Request, now);
        put_address(&mut message, option::REQUESTED_ADDRESS, offer.address);
        put_address(&mut message, option::SERVER, offer.server);
        let wait = self.random.backoff(self.sent);
        self.wait(now, wait);
        Action::Send(message, Destination::Unconfigured)
    }

    /// Requests a renewal: from the server until T2, then from all, until the lease has expired.
    fn renew(&mut self, lease: Lease, now: Duration) -> Vec<Action> {
        let Some(terms) = lease.terms else {
            self.bind(lease);
            return Vec::new();
        };
        let rebinding = after(&lease, terms.rebinding);
        let expiry = after(&lease, terms.expiry);
        if now >= expiry {
            self.restart(now);
            return vec![Action::Deconfigure(lease)];
        }
        let mut message = self.message(Kind::Request, now);
        message.client = lease.address;
        let (until, destination) = if now < rebinding {
            (rebinding, Destination::Server(lease.server))
        } else {
            self.state = State::Rebinding { lease };
            (expiry, Destination::Broadcast)
        };
        self.wait(now, renewal_wait(until - now));
        vec![Action::Send(message, destination)]
    }

    fn wait(&mut self, now: Duration, wait: Duration) {
        self.sent += 1;
        self.asked = now;
        self.deadline = now + wait;
    }

    fn message(&self, kind: Kind, now: Duration) -> Message {
        let mut message = Message::request(kind, self.xid, self.identity.mac);
        let waited = now.saturating_sub(self.began).as_secs();
        message.secs = u16::try_from(waited).unwrap_or(u16::MAX);
        let options = &mut message.options;
        let client_id = [&[1], self.identity.mac.as_slice()].concat();
        options.insert(option::CLIENT_ID, client_id);
        options.insert(option::PARAMETERS, PARAMETERS.to_vec());
        options.insert(option::MAX_SIZE, MAX_SIZE.to_be_bytes().to_vec());
        if !self.identity.hostname.is_empty() {
            let hostname = self.identity.hostname.clone().into_bytes();
            options.insert(option::HOST_NAME, hostname);
        }
        message
    }
}

fn put_address(message: &mut Message, code: u8, address: Ipv4Addr) {
    message.options.insert(code, address.octets().to_vec());
}

fn after(lease: &Lease, seconds: u32) -> Duration {
    Duration::from_secs(lease.obtained.saturating_add(seconds.into()))
}

#[cfg(test)]
mod tests;
