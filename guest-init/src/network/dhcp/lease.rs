//! A lease: an address with its options and times, as a DHCP server has granted it. Pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::{domain_name, search_list};
use super::packet::{Message, option};
use crate::config::address::Address;

/// "Infinity" as a lease time (RFC 2131, 3.3).
const FOREVER: u32 = u32::MAX;
/// Lease time if the server sends none, though it must.
const DEFAULT_SECONDS: u32 = 3600;
/// Shortest lease time: a shorter one would keep client and server busy.
const MIN_SECONDS: u32 = 30;
/// Smallest MTU: every IPv4 host accepts packets of this size (RFC 791, 3.1), so less is a mistake of the server.
const MIN_MTU: u16 = 576;

/// Route of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeaseRoute {
    /// First address of the network that is reached.
    pub network: Ipv4Addr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// The next hop; none if the network is on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

/// An address and its options.
///
/// Stored as JSON between two runs of a sandbox. The next run requests the same address, even if the lease has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the prefix of its network, in bits.
    pub prefix: u8,
    /// Broadcast address, if the server names it.
    pub broadcast: Option<Ipv4Addr>,
    /// Server that granted the lease.
    pub server: Ipv4Addr,
    /// Classless routes, or else the default route through the first router.
    pub routes: Vec<LeaseRoute>,
    /// Name servers, best first.
    pub dns: Vec<Ipv4Addr>,
    /// Domain of the network. A valid name.
    pub domain: Option<String>,
    /// Domains in which short names are looked up. Valid names.
    pub search: Vec<String>,
    /// Largest packet of the link, in bytes.
    pub mtu: Option<u16>,
    /// Time of the request, in seconds of `CLOCK_BOOTTIME`. Meaningless after a boot of the host.
    pub obtained: u64,
    /// Times to renew, rebind and expire, in seconds after that; `None` for an infinite lease.
    pub terms: Option<Terms>,
}

/// The times of a lease, in seconds (RFC 2131, 4.4.5); each is less than the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Terms {
    /// T1: start of requests to its server.
    pub renewal: u32,
    /// T2: start of requests to any server.
    pub rebinding: u32,
    /// End of the lease.
    pub expiry: u32,
}

impl Lease {
    /// Reads the lease of an offer or acknowledgement. `asked` is the time of the request on `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn from_message(message: &Message, asked: Duration) -> Option<Self> {
        let address = message.yours;
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            return None;
        }
        let prefix = match message.address(option::SUBNET_MASK) {
            Some(mask) => prefix_of(mask)?,
            None => class_prefix(address),
        };
        Some(Self {
            address,
            prefix,
            broadcast: message.address(option::BROADCAST),
            server: message.address(option::SERVER)?,
            routes: routes_of(message),
            dns: message.addresses(option::DNS),
            domain: message
                .options
                .get(&option::DOMAIN_NAME)
                .and_then(|bytes| domain_name(bytes)),
            search: message
                .options
                .get(&option::DOMAIN_SEARCH)
                .map(|bytes| search_list(bytes))
                .unwrap_or_default(),
            mtu: message
                .fixed(option::MTU)
                .map(u16::from_be_bytes)
                .filter(|mtu| *mtu >= MIN_MTU),
            obtained: asked.as_secs(),
            terms: terms_of(message),
        })
    }

    /// Returns the address in the form for the kernel.
    #[must_use]
    pub fn as_address(&self) -> Address {
        Address {
            ip: self.address.into(),
            prefix: self.prefix,
            broadcast: self.broadcast,
        }
    }

    /// Returns the lease for use after a boot of the host: its address can be requested, but its age is unknown.
    #[must_use]
    pub fn of_another_boot(self) -> Self {
        Self {
            obtained: u64::MAX,
            ..self
        }
    }

    /// Returns whether an address is in the network of the lease.
    #[must_use]
    pub fn reaches(&self, address: Ipv4Addr) -> bool {
        let host_bits = 32_u32.saturating_sub(self.prefix.into());
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        (address.to_bits() ^ self.address.to_bits()) & mask == 0
    }
}

fn terms_of(message: &Message) -> Option<Terms> {
    let expiry = message
        .number(option::LEASE_TIME)
        .unwrap_or(DEFAULT_SECONDS);
    if expiry == FOREVER {
        return None;
    }
    let expiry = expiry.max(MIN_SECONDS);
    let renewal = message.number(option::RENEWAL_TIME);
    let rebinding = message.number(option::REBINDING_TIME);
    match (renewal, rebinding) {
        (Some(renewal), Some(rebinding))
            if 0 < renewal && renewal < rebinding && rebinding < expiry =>
        {
            Some(Terms {
                renewal,
                rebinding,
                expiry,
            })
        }
        // Half and seven eighths of the lease.
        _ => Some(Terms {
            renewal: expiry / 2,
            rebinding: expiry - expiry / 8,
            expiry,
        }),
    }
}

fn routes_of(message: &Message) -> Vec<LeaseRoute> {
    let classless = message
        .options
        .get(&option::CLASSLESS_ROUTES)
        .and_then(|bytes| classless_routes(bytes));
    // With classless routes the router option has to be ignored (RFC 3442).
    classless.unwrap_or_else(|| {
        let router = message.addresses(option::ROUTER).first().copied();
        let default = |gateway| LeaseRoute {
            network: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(gateway),
        };
        router.map(default).into_iter().collect()
    })
}

/// Parses option 121: for each route the prefix length, the significant octets of the network, the router (RFC 3442).
/// `None` if anything is malformed: half of a routing table is worse than the default route.
fn classless_routes(mut bytes: &[u8]) -> Option<Vec<LeaseRoute>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = bytes.split_first() {
        if prefix > 32 {
            return None;
        }
        let significant = usize::from(prefix).div_ceil(8);
        let (octets, rest) = rest.split_at_checked(significant)?;
        let (gateway, rest) = rest.split_first_chunk::<4>()?;
        let mut network = [0; 4];
        network.get_mut(..significant)?.copy_from_slice(octets);
        let gateway = Ipv4Addr::from(*gateway);
        routes.push(LeaseRoute {
            network: network.into(),
            prefix,
            // 0.0.0.0 means that the network is on the link.
            gateway: (!gateway.is_unspecified()).then_some(gateway),
        });
        bytes = rest;
    }
    (!routes.is_empty()).then_some(routes)
}

/// Returns the prefix length of a netmask; `None` if it has holes.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (ones == bits.count_ones()).then(|| u8::try_from(ones).ok())?
}

/// Returns the prefix length of the class of an address, for a server without a netmask.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..128, ..] => 8,
        [128..192, ..] => 16,
        [192..=255, ..] => 24,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::Kind;
    use super::*;

    fn ack(options: &[(u8, &[u8])]) -> Message {
        let mut message = Message::request(Kind::Ack, 1, [2, 0, 0, 0, 0, 1]);
        message.yours = Ipv4Addr::new(192, 0, 2, 7);
        message.options.insert(option::SERVER, vec![192, 0, 2, 1]);
        for (code, value) in options {
            message.options.insert(*code, value.to_vec());
        }
        message
    }

    fn lease(options: &[(u8, &[u8])]) -> Lease {
        Lease::from_message(&ack(options), Duration::from_secs(100)).unwrap()
    }

    #[test]
    fn terms_have_defaults_and_an_order() {
        let seconds = |seconds: u32| seconds.to_be_bytes();
        for (expiry, given, expected) in [
            (120, None, Some((60, 105, 120))),
            (120, Some((40, 80)), Some((40, 80, 120))),
            (120, Some((80, 40)), Some((60, 105, 120))),
            (120, Some((80, 200)), Some((60, 105, 120))),
            (0, None, Some((15, 27, 30))),
            (u32::MAX, None, None),
        ] {
            let mut message = ack(&[(option::LEASE_TIME, &seconds(expiry))]);
            if let Some((renewal, rebinding)) = given {
                let options = &mut message.options;
                options.insert(option::RENEWAL_TIME, seconds(renewal).to_vec());
                options.insert(option::REBINDING_TIME, seconds(rebinding).to_vec());
            }
            let terms = Lease::from_message(&message, Duration::ZERO).unwrap().terms;
            let terms = terms.map(|terms| (terms.renewal, terms.rebinding, terms.expiry));
            assert_eq!(terms, expected, "{expiry} {given:?}");
        }
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let router: (u8, &[u8]) = (option::ROUTER, &[192, 0, 2, 1]);
        let text = |lease: Lease| -> Vec<String> {
            let hop = |route: &LeaseRoute| {
                format!("{}/{} {:?}", route.network, route.prefix, route.gateway)
            };
            lease.routes.iter().map(hop).collect()
        };
        assert_eq!(text(lease(&[router])), ["0.0.0.0/0 Some(192.0.2.1)"]);
        let routes = [
            0, 192, 0, 2, 9, 20, 10, 1, 16, 192, 0, 2, 8, 8, 11, 0, 0, 0, 0,
        ];
        assert_eq!(
            text(lease(&[router, (option::CLASSLESS_ROUTES, &routes)])),
            [
                "0.0.0.0/0 Some(192.0.2.9)",
                "10.1.16.0/20 Some(192.0.2.8)",
                "11.0.0.0/8 None"
            ]
        );
        for malformed in [&[33, 1, 1, 1, 1, 1, 1, 1, 1, 1][..], &[8, 10, 192], &[0]] {
            let lease = lease(&[router, (option::CLASSLESS_ROUTES, malformed)]);
            assert_eq!(text(lease), ["0.0.0.0/0 Some(192.0.2.1)"]);
        }
    }

    #[test]
    fn masks_become_prefixes() {
        for (mask, prefix) in [
            ([255, 255, 255, 0], Some(24)),
            ([255, 255, 255, 255], Some(32)),
            ([0, 0, 0, 0], Some(0)),
            ([255, 0, 255, 0], None),
        ] {
            let message = ack(&[(option::SUBNET_MASK, &mask)]);
            let lease = Lease::from_message(&message, Duration::ZERO);
            assert_eq!(lease.map(|lease| lease.prefix), prefix, "{mask:?}");
        }
        assert_eq!(lease(&[]).prefix, 24, "by class");
    }

    #[test]
    fn leases_are_kept_as_json() {
        let lease = lease(&[(option::ROUTER, &[192, 0, 2, 1]), (option::MTU, &[5, 120])]);
        let json = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&json).unwrap(), lease);
    }

    proptest! {
        #[test]
        fn arbitrary_routes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = classless_routes(&bytes);
        }
    }
}
