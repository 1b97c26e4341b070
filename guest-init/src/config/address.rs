//! Addresses and routes as people write them: `192.0.2.7/24%192.0.2.255`, `0.0.0.0/0%192.0.2.1`.
//!
//! Pure: nothing here talks to the kernel.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Error in a written address or route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetError {
    /// Not an IPv4 or IPv6 address.
    #[error("'{0}' is not an IP address")]
    Address(String),
    /// The number after `/` is no prefix length of that address family.
    #[error("'{0}' is not a prefix length (0 to {1})")]
    Prefix(String, u8),
    /// A route without `%GATEWAY`.
    #[error("route '{0}' has no gateway: write NETWORK/PREFIX%GATEWAY")]
    NoGateway(String),
    /// Address and gateway or broadcast of two families.
    #[error("'{0}' mixes IPv4 and IPv6")]
    Families(String),
    /// `%BROADCAST` on IPv6, which has none.
    #[error("'{0}' has a broadcast address, which IPv6 does not know")]
    Broadcast(String),
}

/// Longest prefix of an address family, in bits.
#[must_use]
pub fn max_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn parse_ip(text: &str) -> Result<IpAddr, ParseNetError> {
    text.parse()
        .map_err(|_| ParseNetError::Address(text.to_owned()))
}

fn parse_prefixed(
    text: &str,
    default: impl Fn(IpAddr) -> u8,
) -> Result<(IpAddr, u8), ParseNetError> {
    let Some((address, prefix)) = text.split_once('/') else {
        let address = parse_ip(text)?;
        return Ok((address, default(address)));
    };
    let address = parse_ip(address)?;
    let max = max_prefix(address);
    match prefix.parse::<u8>() {
        Ok(bits) if bits <= max => Ok((address, bits)),
        Ok(_) | Err(_) => Err(ParseNetError::Prefix(prefix.to_owned(), max)),
    }
}

/// Address of a NIC with the length of its network prefix, `IP[/PREFIX][%BROADCAST]`.
///
/// The prefix defaults to 24 for IPv4 and to 64 for IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The address of the NIC itself.
    pub ip: IpAddr,
    /// Length of the network prefix, in bits.
    pub prefix: u8,
    /// An IPv4 broadcast address other than the last of the network.
    pub broadcast: Option<Ipv4Addr>,
}

impl FromStr for Address {
    type Err = ParseNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, broadcast) = match text.split_once('%') {
            Some((address, broadcast)) => (address, Some(parse_ip(broadcast)?)),
            None => (text, None),
        };
        let (ip, prefix) = parse_prefixed(address, |ip| if ip.is_ipv4() { 24 } else { 64 })?;
        let broadcast = match (ip, broadcast) {
            (_, None) => None,
            (IpAddr::V4(_), Some(IpAddr::V4(broadcast))) => Some(broadcast),
            (IpAddr::V6(_), Some(_)) => return Err(ParseNetError::Broadcast(text.to_owned())),
            (IpAddr::V4(_), Some(IpAddr::V6(_))) => {
                return Err(ParseNetError::Families(text.to_owned()));
            }
        };
        Ok(Self {
            ip,
            prefix,
            broadcast,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)?;
        match self.broadcast {
            Some(broadcast) => write!(f, "%{broadcast}"),
            None => Ok(()),
        }
    }
}

/// A static route, `NETWORK[/PREFIX]%GATEWAY`. Without a prefix the route is to one host, but
/// `0.0.0.0` and `::` alone mean the default route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Route {
    /// First address of the network that is reached.
    pub network: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// The next hop.
    pub gateway: IpAddr,
}

impl FromStr for Route {
    type Err = ParseNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, gateway) = text
            .split_once('%')
            .ok_or_else(|| ParseNetError::NoGateway(text.to_owned()))?;
        let (network, prefix) = parse_prefixed(network, |ip| {
            if ip.is_unspecified() {
                0
            } else {
                max_prefix(ip)
            }
        })?;
        let gateway = parse_ip(gateway)?;
        if network.is_ipv4() != gateway.is_ipv4() {
            return Err(ParseNetError::Families(text.to_owned()));
        }
        Ok(Self {
            network,
            prefix,
            gateway,
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}%{}", self.network, self.prefix, self.gateway)
    }
}

/// Serializes a type in its written form.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ParseNetError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_text!(Address, Route);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_routes_round_trip() {
        for text in [
            "192.0.2.7/24",
            "192.0.2.7/16%192.0.255.255",
            "2001:db8::7/64",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "0.0.0.0/0%192.0.2.1",
            "10.0.0.0/8%192.0.2.1",
            "::/0%fe80::1",
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_default_prefix_depends_on_the_family() {
        assert_eq!("192.0.2.7".parse::<Address>().unwrap().prefix, 24);
        assert_eq!("2001:db8::7".parse::<Address>().unwrap().prefix, 64);
        assert_eq!("0.0.0.0%192.0.2.1".parse::<Route>().unwrap().prefix, 0);
        assert_eq!("10.1.2.3%192.0.2.1".parse::<Route>().unwrap().prefix, 32);
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "300.1.1.1",
            "10.0.0.1/33",
            "10.0.0.1/x",
            "::1/129",
            "::1%10.0.0.1",
            "10.0.0.1%::1",
            "10.0.0.1/",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for text in ["10.0.0.0/8", "10.0.0.0/8%", "10.0.0.0/8%::1", "x%10.0.0.1"] {
            assert!(text.parse::<Route>().is_err(), "{text}");
        }
    }
}
