//! The states of a DHCP client (RFC 2131, figure 5), without sockets and clocks.
//!
//! It is told the time and what was received, and says what to do and until when to wait.
//! The loop in [`super`] does it.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::network::dhcp::backoff::{Random, confirmation_wait, renewal_wait};
use crate::network::dhcp::lease::Lease;
use crate::network::dhcp::packet::{Kind, Message, option};

/// What we ask servers to tell.
const PARAMETERS: [u8; 8] = [
    option::SUBNET_MASK,
    // Before the router, as RFC 3442 wants it.
    option::CLASSLESS_ROUTES,
    option::ROUTER,
    option::DNS,
    option::DOMAIN_NAME,
    option::DOMAIN_SEARCH,
    option::BROADCAST,
    option::MTU,
];
/// Largest DHCP message we take, in bytes: an Ethernet packet without its headers.
const MAX_SIZE: u16 = 1472;
/// How often a request for an offered address is sent before we look for another offer.
const REQUESTS: u32 = 4;

/// Who the client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Ethernet address, which is the client id as well.
    pub mac: [u8; 6],
    /// Host name sent to the server; none if empty.
    pub hostname: String,
}

/// What a client begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// An address that may be had: the server is asked for it first.
    Address(Ipv4Addr),
    /// The lease of an earlier run that has not expired and is in use; the server is asked to confirm it.
    Remembered(Lease),
    /// A lease the server has just given.
    Confirmed(Lease),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send(Message, Destination),
    /// The lease holds from now on: a new one, or the previous one renewed.
    Configure {
        /// What holds.
        lease: Lease,
        /// What held until now.
        previous: Option<Lease>,
    },
    /// The lease holds no longer.
    Deconfigure(Lease),
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To all, from no address.
    Unconfigured,
    /// To all, from our address.
    Broadcast,
    /// To our server, from our address.
    Server(Ipv4Addr),
}

/// On what the answers to a client come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// None are awaited.
    No,
    /// Below IP, for there is no address.
    Packets,
    /// As an ordinary UDP program.
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
    /// REQUEST was sent for an address that we know of.
    Rebooting {
        address: Ipv4Addr,
        /// The lease of an earlier run that has not expired: it is ours until somebody says no.
        held: Option<Box<Lease>>,
    },
    /// There is a lease.
    Bound { lease: Lease },
    /// Its server was asked for more time.
    Renewing { lease: Lease },
    /// Any server was asked for more time.
    Rebinding { lease: Lease },
}

/// A DHCP client.
#[derive(Debug, Clone)]
pub struct Client {
    identity: Identity,
    state: State,
    random: Random,
    /// Of the transaction that is under way.
    xid: u32,
    /// Messages sent in this state.
    sent: u32,
    /// When the search for an address began.
    began: Duration,
    /// When the last message was sent: a lease counts from its request (RFC 2131, 4.4.1).
    asked: Duration,
    /// Rounds that came to nothing, one after the other.
    failures: u32,
    deadline: Duration,
}

impl Client {
    /// A client that begins with what is known.
    ///
    /// All times are on `CLOCK_BOOTTIME`; `seed` is for transaction ids and jitter.
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

    /// When [`Self::timer`] wants to be called; `None` for never.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        (self.deadline != Duration::MAX).then_some(self.deadline)
    }

    /// What the answers come in on.
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

    /// The deadline has come.
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
                // RFC 2131, 3.2: where no server answers, a lease that has not expired may be used on.
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

    /// A message came in.
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
                // The transaction id stays that of the offer (RFC 2131, 4.4.1).
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

    /// Begins anew: at once the first time, then after longer and longer waits, so that a server
    /// that always refuses is not flooded.
    fn restart(&mut self, now: Duration) {
        self.enter(State::Init);
        self.began = now;
        self.deadline = match self.failures {
            0 => now,
            failures => now + self.random.backoff(failures - 1),
        };
        self.failures = self.failures.saturating_add(1);
    }

    /// Takes a state with a transaction of its own.
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

    /// Asks for more time: the server until T2, then all, until the lease has expired.
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
