//! NICs a sandbox may ask for.
//!
//! One `-N` is one NIC: comma-separated fields `dhcp`, `source=NETWORK`, `mac=MAC`, `address=IP[/PREFIX][%BROADCAST]`,
//! `route=NETWORK[/PREFIX]%GATEWAY`, `filter=NAME`, `filter.PARAMETER=VALUE`. The word `none` alone means
//! that there is no NIC at all. Within the sandbox the NICs are `eth0`, `eth1`… in order.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use guest_init::config::Addressing;
use guest_init::net::{Address, ParseNetError, Route};

use crate::config::as_text;

/// A network interface of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The libvirt network it is plugged into.
    pub source: String,
    /// Its hardware address; libvirt makes one up where there is none.
    pub mac: Option<Mac>,
    /// How it gets its addresses.
    pub addressing: Addressing,
    /// The network filter of libvirt in front of it.
    pub filter: Option<Filter>,
}

/// The network a NIC is plugged into when none is named.
pub const DEFAULT_SOURCE: &str = "default";

/// A network filter of libvirt with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Name of the filter.
    pub name: String,
    /// Parameters, with names in upper case as libvirt has them.
    pub parameters: BTreeMap<String, String>,
}

/// A unicast hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

/// Why a text is no NIC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetworkError {
    /// A field there is not, or one given twice.
    #[error(
        "'{0}' is not a field of a NIC: use dhcp, source=, mac=, address=, route=, filter= and filter.NAME="
    )]
    Field(String),
    /// A field that can be given once only.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
    /// A field without a value.
    #[error("'{0}' has no value")]
    Empty(String),
    /// DHCP and static addresses or routes together.
    #[error("dhcp and {0} exclude each other")]
    DhcpAnd(&'static str),
    /// Routes without an address of the NIC.
    #[error("a route needs an address of the NIC as well")]
    RouteWithoutAddress,
    /// Filter parameters without a filter.
    #[error("filter parameters need filter=NAME")]
    ParameterWithoutFilter,
    /// No hardware address, or one of a group.
    #[error("'{0}' is not a unicast MAC address such as 52:54:00:12:34:56")]
    Mac(String),
    /// A name with characters it cannot have.
    #[error("{0:?} is not a name")]
    Name(String),
    /// An address or a route.
    #[error(transparent)]
    Net(#[from] ParseNetError),
}

impl Network {
    /// A NIC that asks for its address in the libvirt network `source`.
    #[must_use]
    pub fn dhcp(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            mac: None,
            addressing: Addressing::Dhcp,
            filter: None,
        }
    }
}

impl Mac {
    /// The address of NIC `index` of the sandbox `uuid`: locally administered, in the range that libvirt uses for
    /// containers, and the same at every start, so that a lease can be kept.
    #[must_use]
    pub fn of_sandbox(uuid: &uuid::Uuid, index: usize) -> Self {
        let bytes = uuid.as_bytes();
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        Self([
            0x52,
            0x54,
            0x00,
            bytes[0],
            bytes[1],
            bytes[2].wrapping_add(index),
        ])
    }
}

impl FromStr for Mac {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseNetworkError::Mac(text.to_owned());
        let mut bytes = [0; 6];
        let mut fields = text.split(':');
        for byte in &mut bytes {
            let field = fields
                .next()
                .filter(|field| field.len() == 2)
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(field, 16).map_err(|_| wrong())?;
        }
        // The lowest bit of the first byte marks a group (IEEE 802).
        if fields.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A name of libvirt's: no separators of this grammar, nothing XML cannot carry.
fn name(text: &str) -> Result<String, ParseNetworkError> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || "/,=<>&'\"".contains(c);
    if text.is_empty() || text.chars().any(is_odd) {
        return Err(ParseNetworkError::Name(text.to_owned()));
    }
    Ok(text.to_owned())
}

fn once<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), ParseNetworkError> {
    if slot.replace(value).is_some() {
        return Err(ParseNetworkError::Twice(field));
    }
    Ok(())
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut dhcp = None;
        let (mut source, mut mac, mut filter) = (None, None, None);
        let (mut addresses, mut routes) = (Vec::<Address>::new(), Vec::<Route>::new());
        let mut parameters = BTreeMap::new();
        for field in text.split(',') {
            if field == "dhcp" {
                once(&mut dhcp, "dhcp", ())?;
                continue;
            }
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| ParseNetworkError::Field(field.to_owned()))?;
            if value.is_empty() {
                return Err(ParseNetworkError::Empty(field.to_owned()));
            }
            match key {
                "source" => once(&mut source, "source", name(value)?)?,
                "mac" => once(&mut mac, "mac", value.parse::<Mac>()?)?,
                "filter" => once(&mut filter, "filter", name(value)?)?,
                "address" => addresses.push(value.parse()?),
                "route" => routes.push(value.parse()?),
                other => match other.strip_prefix("filter.") {
                    Some(parameter) => {
                        parameters.insert(name(parameter)?.to_uppercase(), name(value)?);
                    }
                    None => return Err(ParseNetworkError::Field(field.to_owned())),
                },
            }
        }
        let addressing = match (dhcp, addresses.is_empty(), routes.is_empty()) {
            (Some(()), true, true) => Addressing::Dhcp,
            (Some(()), false, _) => return Err(ParseNetworkError::DhcpAnd("address")),
            (Some(()), true, false) => return Err(ParseNetworkError::DhcpAnd("route")),
            (None, true, false) => return Err(ParseNetworkError::RouteWithoutAddress),
            (None, true, true) => Addressing::None,
            (None, false, _) => Addressing::Static { addresses, routes },
        };
        let filter = match filter {
            Some(name) => Some(Filter { name, parameters }),
            None if parameters.is_empty() => None,
            None => return Err(ParseNetworkError::ParameterWithoutFilter),
        };
        Ok(Self {
            source: source.unwrap_or_else(|| DEFAULT_SOURCE.to_owned()),
            mac,
            addressing,
            filter,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.addressing {
            Addressing::Dhcp => f.write_str("dhcp,")?,
            Addressing::None => {}
            Addressing::Static { addresses, routes } => {
                for address in addresses {
                    write!(f, "address={address},")?;
                }
                for route in routes {
                    write!(f, "route={route},")?;
                }
            }
        }
        write!(f, "source={}", self.source)?;
        if let Some(mac) = self.mac {
            write!(f, ",mac={mac}")?;
        }
        if let Some(filter) = &self.filter {
            write!(f, ",filter={}", filter.name)?;
            for (key, value) in &filter.parameters {
                write!(f, ",filter.{}={value}", key.to_lowercase())?;
            }
        }
        Ok(())
    }
}

as_text!(Network);

/// What `-N` says: a NIC, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    /// `none`.
    None,
    /// One NIC.
    Nic(Network),
}

impl FromStr for NetworkChoice {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            other => other.parse().map(Self::Nic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_inverse() {
        for text in [
            "dhcp,source=default",
            "dhcp,source=lab,mac=52:54:00:12:34:56",
            "address=192.0.2.7/24,address=2001:db8::7/64,route=0.0.0.0/0%192.0.2.1,source=default",
            "dhcp,source=default,filter=clean-traffic,filter.ip=192.0.2.7",
            "source=default",
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("dhcp".parse::<Network>().unwrap(), Network::dhcp("default"));
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for text in [
            "",
            "dhcp,",
            "dhcp,dhcp",
            "dhcp=x",
            "dhcp,address=192.0.2.7",
            "address=192.0.2.7,dhcp",
            "dhcp,route=10.0.0.0/8%192.0.2.1",
            "route=10.0.0.0/8%192.0.2.1",
            "address=192.0.2.300",
            "address=192.0.2.7%x",
            "address=1.2.3.4,route=10.0.0.0/8",
            "mac=ff:ff:ff:ff:ff:ff",
            "mac=1:2:3:4:5:6",
            "mac=00:00:00:00:00:00",
            "source=",
            "source=a,source=b",
            "filter.ip=1.2.3.4",
            "wat=1",
            "source=a b",
            "source=<x>",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
