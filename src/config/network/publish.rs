//! Published ports: `[ADDRESS:]HOSTPORT:GUESTPORT[/tcp|udp]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::config::as_text;

/// Port of the sandbox that the host answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Address of the host; every address if absent. IPv6 is written in brackets.
    pub address: Option<IpAddr>,
    /// Port of the host.
    pub host: NonZeroU16,
    /// Port of the sandbox.
    pub guest: NonZeroU16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// Transport protocol with ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Publish {
    /// Returns whether both cannot be published on one host at the same time.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        let is_any = |publish: &Self| {
            publish
                .address
                .is_none_or(|address| address.is_unspecified())
        };
        (self.host, self.protocol) == (other.host, other.protocol)
            && (is_any(self) || is_any(other) || self.address == other.address)
    }
}

impl Protocol {
    /// Returns the name of the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Error of parsing a published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePublishError {
    /// The text does not have the form.
    #[error("'{0}' publishes nothing: write [ADDRESS:]HOSTPORT:GUESTPORT[/tcp|udp]")]
    Syntax(String),
    /// The port is invalid.
    #[error("'{0}' is not a port (1 to 65535)")]
    Port(String),
    /// The address is invalid.
    #[error("'{0}' is not an IP address; IPv6 is written in brackets, as [::1]")]
    Address(String),
    /// The protocol is unknown.
    #[error("'{0}' is not a protocol: use tcp or udp")]
    Protocol(String),
}

impl FromStr for Publish {
    type Err = ParsePublishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::default()),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(ParsePublishError::Protocol(other.to_owned())),
        };
        let (rest, guest) = ports
            .rsplit_once(':')
            .ok_or_else(|| ParsePublishError::Syntax(text.to_owned()))?;
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (Some(self::address(address)?), host),
            None => (None, rest),
        };
        Ok(Self {
            address,
            host: port(host)?,
            guest: port(guest)?,
            protocol,
        })
    }
}

fn port(text: &str) -> Result<NonZeroU16, ParsePublishError> {
    Some(text)
        .filter(|text| text.chars().all(|c| c.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ParsePublishError::Port(text.to_owned()))
}

fn address(text: &str) -> Result<IpAddr, ParsePublishError> {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse().map(IpAddr::V4),
    }
    .map_err(|_| ParsePublishError::Address(text.to_owned()))
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        write!(f, "{}:{}", self.host, self.guest)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

as_text!(Publish);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_inverse() {
        for text in [
            "8080:80",
            "53:53/udp",
            "127.0.0.1:1:65535",
            "[::1]:8080:80/udp",
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), text);
        }
        assert_eq!(
            "8080:80/tcp".parse::<Publish>().unwrap().to_string(),
            "8080:80"
        );
    }

    #[test]
    fn a_port_is_published_once() {
        let collides = |one: &str, other: &str| {
            let publish = |text: &str| text.parse::<Publish>().unwrap();
            assert_eq!(
                publish(one).collides(&publish(other)),
                publish(other).collides(&publish(one))
            );
            publish(one).collides(&publish(other))
        };
        assert!(collides("80:1", "80:2"));
        assert!(collides("80:1", "127.0.0.1:80:1"));
        assert!(collides("0.0.0.0:80:1", "127.0.0.1:80:1"));
        assert!(!collides("80:1", "81:1"));
        assert!(!collides("80:1", "80:1/udp"));
        assert!(!collides("127.0.0.1:80:1", "127.0.0.2:80:1"));
    }

    #[test]
    fn what_publishes_nothing_is_refused() {
        for text in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "80:65536",
            "+80:80",
            "80:80/",
            "80:80/sctp",
            "80:80/tcp/udp",
            ":80:80",
            "localhost:80:80",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "[::1:80:80",
            "1.2.3:80:80",
        ] {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }
}
