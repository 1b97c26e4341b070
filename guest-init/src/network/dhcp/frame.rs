//! IPv4 and UDP headers around a DHCP message, for the time before there is an address.
//!
//! Pure: bytes in, bytes out.

use std::net::Ipv4Addr;

/// Port a DHCP client listens on.
pub const CLIENT_PORT: u16 = 68;
/// Port a DHCP server listens on.
pub const SERVER_PORT: u16 = 67;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
/// "More fragments" and the fragment offset (RFC 791, 3.1).
const FRAGMENTED: u16 = 0x3fff;

/// Returns a broadcast datagram from client to server, without a source address.
#[must_use]
pub fn wrap(payload: &[u8]) -> Vec<u8> {
    let source = Ipv4Addr::UNSPECIFIED.octets();
    let destination = Ipv4Addr::BROADCAST.octets();
    // A DHCP message has a few hundred bytes. The receiver would drop a datagram that does not fit 16 bits.
    let udp_length = u16::try_from(UDP_HEADER + payload.len()).unwrap_or(u16::MAX);
    let total = u16::try_from(IP_HEADER + UDP_HEADER + payload.len()).unwrap_or(u16::MAX);

    let mut ip = [0; IP_HEADER];
    ip[0] = 0x45;
    ip[1] = 0x10; // low delay, as every DHCP client asks for
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[8] = 64;
    ip[9] = UDP;
    ip[12..16].copy_from_slice(&source);
    ip[16..20].copy_from_slice(&destination);
    let header_sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&header_sum.to_be_bytes());

    let mut udp = [0; UDP_HEADER];
    udp[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    let pseudo = [0, UDP];
    let length = udp_length.to_be_bytes();
    let sum = checksum(&[&source, &destination, &pseudo, &length, &udp, payload]);
    // Zero would mean "no checksum" (RFC 768).
    let sum = if sum == 0 { u16::MAX } else { sum };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());

    [ip.as_slice(), udp.as_slice(), payload].concat()
}

/// Returns the payload of a datagram to the client's port; `None` for any other packet.
///
/// The UDP checksum is ignored: a server on the same host leaves it to the network card, and a veth pair has none that completes it.
#[must_use]
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header_length = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_length < IP_HEADER {
        return None;
    }
    let header = packet.get(..header_length)?;
    if checksum(&[header]) != 0 || *header.get(9)? != UDP || word(header, 6)? & FRAGMENTED != 0 {
        return None;
    }
    // Short Ethernet frames are padded: the header says where the datagram ends.
    let datagram = packet.get(header_length..usize::from(word(header, 2)?))?;
    if word(datagram, 2)? != CLIENT_PORT {
        return None;
    }
    datagram.get(UDP_HEADER..usize::from(word(datagram, 4)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// The Internet checksum (RFC 1071). Every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A datagram as a server sends it.
    fn reply(payload: &[u8]) -> Vec<u8> {
        let mut packet = wrap(payload);
        packet[22..24].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        packet
    }

    #[test]
    fn sent_packets_have_valid_checksums() {
        let packet = wrap(b"odd");
        assert_eq!(checksum(&[&packet[..20]]), 0);
        let pseudo = [0, UDP, 0, 11];
        assert_eq!(checksum(&[&packet[12..20], &pseudo, &packet[20..]]), 0);
        assert_eq!(unwrap(&packet), None, "it is for the server's port");
    }

    #[test]
    fn replies_are_unwrapped_despite_padding_and_udp_checksum() {
        let mut packet = reply(b"payload");
        packet[26] ^= 0xff;
        packet.extend([0; 20]);
        assert_eq!(unwrap(&packet), Some(b"payload".as_slice()));
    }

    #[test]
    fn damaged_datagrams_are_ignored() {
        let good = reply(b"payload");
        for length in 0..good.len() {
            assert_eq!(unwrap(&good[..length]), None, "cut to {length}");
        }
        for at in 0..20 {
            let mut packet = good.clone();
            packet[at] ^= 0x10;
            assert_eq!(unwrap(&packet), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = unwrap(&bytes);
        }

        #[test]
        fn any_payload_round_trips(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let packet = reply(&bytes);
            prop_assert_eq!(unwrap(&packet), Some(bytes.as_slice()));
        }
    }
}
