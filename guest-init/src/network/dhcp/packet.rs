//! DHCP messages as bytes (RFC 2131, RFC 2132).
//!
//! Pure. Every read is bounds-checked: malformed data is `None`, never a panic. [`super::lease`] interprets the options.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Options of RFC 2132, RFC 3397 (search list) and RFC 3442 (classless routes).
pub mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const PAD: u8 = 0;
    pub const END: u8 = 255;
}

/// Start of the `sname` field; `file` follows it.
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS: usize = 240;
/// Size of a BOOTP message, to which messages are padded: some relays drop shorter ones (RFC 1542, 2.1).
const MIN_SIZE: usize = 300;

const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
const ETHERNET: u8 = 1;

/// Message type (RFC 2132, 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Discover,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

impl Kind {
    const ALL: [(u8, Self); 8] = [
        (1, Self::Discover),
        (2, Self::Offer),
        (3, Self::Request),
        (4, Self::Decline),
        (5, Self::Ack),
        (6, Self::Nak),
        (7, Self::Release),
        (8, Self::Inform),
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(number, _)| *number == code)
            .map(|(_, kind)| *kind)
    }

    fn code(self) -> u8 {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or(0, |(number, _)| *number)
    }

    fn operation(self) -> u8 {
        match self {
            Self::Offer | Self::Ack | Self::Nak => BOOTREPLY,
            Self::Discover | Self::Request | Self::Decline | Self::Release | Self::Inform => {
                BOOTREQUEST
            }
        }
    }
}

/// A DHCP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Message type.
    pub kind: Kind,
    /// Transaction id, the same in request and reply.
    pub xid: u32,
    /// Seconds since the client started.
    pub secs: u16,
    /// Current address of the client (`ciaddr`).
    pub client: Ipv4Addr,
    /// Address that the server assigns (`yiaddr`).
    pub yours: Ipv4Addr,
    /// Ethernet address of the client.
    pub mac: [u8; 6],
    /// Options except the message type. The parts of long ones are joined (RFC 3396).
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Message {
    /// Returns a message of a client, without options.
    #[must_use]
    pub fn request(kind: Kind, xid: u32, mac: [u8; 6]) -> Self {
        Self {
            kind,
            xid,
            secs: 0,
            client: Ipv4Addr::UNSPECIFIED,
            yours: Ipv4Addr::UNSPECIFIED,
            mac,
            options: BTreeMap::new(),
        }
    }

    /// Parses a message; `None` if it is malformed, a BOOTP message, or not for Ethernet.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(1..3)? != [ETHERNET, 6] || bytes.get(FILE.end..OPTIONS)? != COOKIE {
            return None;
        }
        let mut options = BTreeMap::new();
        read_options(bytes.get(OPTIONS..)?, &mut options);
        // Options may continue in fields for net boot (RFC 2132, 9.3).
        let overload = options.remove(&option::OVERLOAD);
        let overload = overload
            .and_then(|value| value.first().copied())
            .unwrap_or(0);
        if overload & 1 != 0 {
            read_options(bytes.get(FILE)?, &mut options);
        }
        if overload & 2 != 0 {
            read_options(bytes.get(SNAME)?, &mut options);
        }
        options.remove(&option::OVERLOAD);
        let kind = match options.remove(&option::MESSAGE_TYPE)?.as_slice() {
            [code] => Kind::from_code(*code)?,
            _ => return None,
        };
        if *bytes.first()? != kind.operation() {
            return None;
        }
        Some(Self {
            kind,
            xid: u32::from_be_bytes(array(bytes, 4)?),
            secs: u16::from_be_bytes(array(bytes, 8)?),
            client: array::<4>(bytes, 12)?.into(),
            yours: array::<4>(bytes, 16)?.into(),
            mac: array(bytes, 28)?,
            options,
        })
    }

    /// Serializes the message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MIN_SIZE);
        bytes.extend([self.kind.operation(), ETHERNET, 6, 0]);
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        // No broadcast flag: a packet socket also receives a reply to the new address.
        bytes.extend([0, 0]);
        bytes.extend(self.client.octets());
        bytes.extend(self.yours.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.mac);
        bytes.resize(FILE.end, 0);
        bytes.extend(COOKIE);
        bytes.extend([option::MESSAGE_TYPE, 1, self.kind.code()]);
        for (code, value) in &self.options {
            write_option(*code, value, &mut bytes);
        }
        bytes.push(option::END);
        if bytes.len() < MIN_SIZE {
            bytes.resize(MIN_SIZE, 0);
        }
        bytes
    }

    /// Returns an option that is one address.
    #[must_use]
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    /// Returns an option that is a list of addresses; empty if it is missing or malformed.
    #[must_use]
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.options.get(&code).map_or(&[][..], Vec::as_slice);
        let (addresses, rest) = value.as_chunks::<4>();
        if rest.is_empty() {
            addresses.iter().copied().map(Ipv4Addr::from).collect()
        } else {
            Vec::new()
        }
    }

    /// Returns an option that is a number of 32 bits, mostly of seconds.
    #[must_use]
    pub fn number(&self, code: u8) -> Option<u32> {
        self.fixed(code).map(u32::from_be_bytes)
    }

    /// Returns an option of exactly `N` bytes.
    #[must_use]
    pub fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.options.get(&code)?.as_slice().try_into().ok()
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Parses options up to the end or the first truncated one.
fn read_options(mut bytes: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) {
    while let Some((&code, rest)) = bytes.split_first() {
        match code {
            option::PAD => bytes = rest,
            option::END => return,
            _ => {
                let Some((&length, rest)) = rest.split_first() else {
                    return;
                };
                let Some((value, rest)) = rest.split_at_checked(length.into()) else {
                    return;
                };
                options.entry(code).or_default().extend(value);
                bytes = rest;
            }
        }
    }
}

/// Writes an option, in parts if it is too long for one (RFC 3396).
fn write_option(code: u8, value: &[u8], bytes: &mut Vec<u8>) {
    if value.is_empty() {
        bytes.extend([code, 0]);
    }
    for part in value.chunks(255) {
        // A chunk is no longer than 255.
        bytes.extend([code, part.len() as u8]);
        bytes.extend(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer() -> Message {
        let mut message = Message::request(Kind::Offer, 0x1234_5678, [2, 0, 0, 0, 0, 1]);
        message.yours = Ipv4Addr::new(192, 0, 2, 7);
        let options = &mut message.options;
        options.insert(option::SUBNET_MASK, vec![255, 255, 255, 0]);
        options.insert(option::DNS, vec![192, 0, 2, 1, 192, 0, 2, 2]);
        message
    }

    #[test]
    fn options_are_parsed_by_their_type() {
        let message = Message::parse(&offer().to_bytes()).unwrap();
        assert_eq!(message, offer());
        assert_eq!(
            message.address(option::SUBNET_MASK),
            Some(Ipv4Addr::new(255, 255, 255, 0))
        );
        assert_eq!(message.addresses(option::DNS).len(), 2);
        assert!(message.addresses(option::ROUTER).is_empty());
        assert_eq!(
            message.address(option::DNS),
            None,
            "eight bytes are not one address"
        );
    }

    #[test]
    fn overloaded_fields_are_parsed() {
        let mut bytes = offer().to_bytes();
        let end = bytes.iter().rposition(|byte| *byte == option::END).unwrap();
        bytes.splice(end..end, [option::OVERLOAD, 1, 3]);
        bytes[FILE.start..FILE.start + 6].copy_from_slice(&[option::ROUTER, 4, 192, 0, 2, 1]);
        bytes[SNAME.start..SNAME.start + 4].copy_from_slice(&[option::MTU, 2, 5, 220]);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(
            message.address(option::ROUTER),
            Some(Ipv4Addr::new(192, 0, 2, 1))
        );
        assert_eq!(message.fixed(option::MTU), Some([5, 220]));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let good = offer().to_bytes();
        for length in 0..OPTIONS + 3 {
            assert_eq!(Message::parse(&good[..length]), None, "cut to {length}");
        }
        for at in [0, 1, 2, FILE.end, OPTIONS, OPTIONS + 2] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            assert_eq!(Message::parse(&bytes), None, "byte {at}");
        }
    }

    fn any_message() -> impl Strategy<Value = Message> {
        // 0 and 255 are pad and end; 52 and 53 are the codec's own.
        let code = (1_u8..255).prop_filter("own", |code| ![52, 53].contains(code));
        let value = proptest::collection::vec(any::<u8>(), 0..600);
        (
            0..Kind::ALL.len(),
            any::<(u32, u16, u32, u32, [u8; 6])>(),
            proptest::collection::btree_map(code, value, 0..8),
        )
            .prop_map(|(kind, (xid, secs, client, yours, mac), options)| Message {
                kind: Kind::ALL[kind].1,
                xid,
                secs,
                client: client.into(),
                yours: yours.into(),
                mac,
                options,
            })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn damaged_messages_do_not_panic(
            message in any_message(),
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..9),
        ) {
            let mut bytes = message.to_bytes();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn any_message_round_trips(message in any_message()) {
            prop_assert_eq!(Message::parse(&message.to_bytes()), Some(message));
        }
    }
}
