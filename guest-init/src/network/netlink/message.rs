//! Building and parsing of rtnetlink messages. Pure.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::{Cause, Hop, Link};
use crate::config::address::{Address, max_prefix};

/// First message type of rtnetlink; lower ones are control messages of netlink (`NLMSG_MIN_TYPE`, netlink(7)).
const FIRST_OF_RTNETLINK: u16 = 16;

/// Collects the messages of one datagram. Returns whether the answer is complete.
#[allow(clippy::wildcard_enum_match_arm)] // the codec's payloads are non-exhaustive
pub fn gather(
    mut datagram: &[u8],
    sequence: u32,
    answers: &mut Vec<RouteNetlinkMessage>,
) -> std::result::Result<bool, Cause> {
    while !datagram.is_empty() {
        let raw = NetlinkBuffer::new_checked(datagram).map_err(|_| Cause::Malformed)?;
        let length = raw.length() as usize;
        // A message of an earlier request has another number.
        let ours = raw.sequence_number() == sequence;
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
            Ok(_) if !ours => {}
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(true),
                        Some(code) => Err(Errno::from_raw(code.get().saturating_neg()).into()),
                    };
                }
                _ => {}
            },
            // A control message ends the answer: skipping it would wait for ever.
            Err(_) if ours && raw.message_type() < FIRST_OF_RTNETLINK => {
                return Err(Cause::Malformed);
            }
            // A newer kernel may send attributes that the codec does not know.
            Err(error) => log::debug!("skipping a netlink message: {error}"),
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

pub fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut name = None;
    let mut mac = None;
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::Address(bytes) = attribute {
            mac = bytes.as_slice().try_into().ok();
        }
    }
    Some(Link {
        name: name?,
        index: message.header.index,
        mac,
    })
}

pub fn address_of(message: &RouteNetlinkMessage, index: u32) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    if message.header.index != index {
        return None;
    }
    let mut ip = None;
    let mut broadcast = None;
    for attribute in &message.attributes {
        // IFA_LOCAL is the address itself; IFA_ADDRESS is the peer on point-to-point links, and the
        // only one IPv6 has.
        if let AddressAttribute::Local(local) = attribute {
            ip = Some(*local);
        } else if let AddressAttribute::Address(address) = attribute {
            ip = ip.or(Some(*address));
        } else if let AddressAttribute::Broadcast(address) = attribute {
            broadcast = Some(*address);
        }
    }
    match ip? {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => None,
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => Some(Address {
            ip,
            prefix: message.header.prefix_len,
            broadcast,
        }),
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub fn address_message(link: &Link, address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.prefix;
    message.header.index = link.index;
    message.attributes = vec![
        AddressAttribute::Local(address.ip),
        AddressAttribute::Address(address.ip),
    ];
    message
}

pub fn route_message(link: &Link, hop: &Hop) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(hop.network),
        destination_prefix_length: hop.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: hop.protocol,
        scope: match hop.gateway {
            Some(_) => RouteScope::Universe,
            None => RouteScope::Link,
        },
        kind: RouteType::Unicast,
        flags: if hop.gateway_on_link {
            RouteFlags::Onlink
        } else {
            RouteFlags::empty()
        },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Oif(link.index));
    if hop.prefix > 0 {
        let network = first_of(hop.network, hop.prefix);
        attributes.push(RouteAttribute::Destination(network.into()));
    }
    attributes.extend(hop.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
    attributes.extend(hop.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    if hop.metric > 0 {
        attributes.push(RouteAttribute::Priority(hop.metric));
    }
    message
}

/// Returns the first address of a network. The kernel refuses routes with host bits set.
fn first_of(ip: IpAddr, prefix: u8) -> IpAddr {
    let host_bits = u32::from(max_prefix(ip).saturating_sub(prefix));
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// Returns the broadcast address of a network; `None` for networks of one or two addresses (RFC 3021).
pub fn last_of(ip: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    (prefix < 31).then(|| {
        let host_mask = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        (ip.to_bits() | host_mask).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_a_first_and_a_last_address() {
        for (ip, prefix, first, last) in [
            ("192.0.2.7", 24, "192.0.2.0", Some("192.0.2.255")),
            ("192.0.2.7", 0, "0.0.0.0", Some("255.255.255.255")),
            ("192.0.2.7", 31, "192.0.2.6", None),
            ("192.0.2.7", 32, "192.0.2.7", None),
        ] {
            let ip: Ipv4Addr = ip.parse().unwrap();
            assert_eq!(
                first_of(ip.into(), prefix).to_string(),
                first,
                "{ip}/{prefix}"
            );
            let expected = last.map(|last| last.parse::<Ipv4Addr>().unwrap());
            assert_eq!(last_of(ip, prefix), expected, "{ip}/{prefix}");
        }
        let ip = "2001:db8::7".parse().unwrap();
        assert_eq!(first_of(ip, 64).to_string(), "2001:db8::");
        assert_eq!(first_of(ip, 0).to_string(), "::");
    }

    #[test]
    fn malformed_datagrams_are_refused() {
        let mut answers = Vec::new();
        assert_eq!(gather(&[1, 2, 3], 1, &mut answers), Err(Cause::Malformed));
        assert_eq!(gather(&[0; 16], 1, &mut answers), Err(Cause::Malformed));
    }
}
