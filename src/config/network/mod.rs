//! NICs of a sandbox.
//!
//! One `-N` is one NIC: comma-separated fields `dhcp`, `address=IP[/PREFIX][%BROADCAST]`,
//! `route=NETWORK[/PREFIX]%GATEWAY`, `mac=MAC`, `filter=NAME`, `filter.PARAMETER=VALUE`, and at most one of
//! `source=NETWORK`, `bridge=BRIDGE`, `direct=DEVICE[,mode=MODE]` and `user`. The word `none` alone means no
//! NIC at all. Inside the sandbox the NICs are `eth0`, `eth1`… in order.

pub mod hostname;
pub mod mac;
pub mod publish;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use guest_init::config::Addressing;
use guest_init::config::address::{Address, ParseNetError, Route};

use crate::config::as_text;
use crate::config::network::mac::{Mac, ParseMacError};
use crate::config::values::escape::is_unwritable;

/// Network interface of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Backend; by default libvirt's network `default` for a container, and user mode for a virtual
    /// machine.
    pub source: Option<Source>,
    /// Hardware address; generated if absent.
    pub mac: Option<Mac>,
    /// Source of its addresses.
    pub addressing: Addressing,
    /// Network filter of libvirt.
    pub filter: Option<Filter>,
}

/// Backend of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `source=NETWORK`: a network of libvirt.
    Network(String),
    /// `bridge=BRIDGE`: a bridge of the host.
    Bridge(String),
    /// `direct=DEVICE[,mode=MODE]`: a device of the host, through macvlan.
    Direct {
        /// Device of the host.
        device: String,
        /// Mode of the macvlan.
        mode: DirectMode,
    },
    /// `user`: connections made by the hypervisor's process.
    User,
}

/// Mode in which several NICs share one device of the host (`ip-link(8)`, macvlan).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DirectMode {
    /// NICs on the device reach each other.
    #[default]
    Bridge,
    /// A switch outside decides whether NICs reach each other.
    Vepa,
    /// NICs on the device do not reach each other.
    Private,
    /// One NIC has the device for itself.
    Passthrough,
}

impl DirectMode {
    const ALL: [Self; 4] = [Self::Bridge, Self::Vepa, Self::Private, Self::Passthrough];

    /// Returns its name, here and in libvirt.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vepa => "vepa",
            Self::Private => "private",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Default network of libvirt for a container's NIC.
pub const DEFAULT_SOURCE: &str = "default";

/// Network filter of libvirt with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Name of the filter.
    pub name: String,
    /// Parameters, with names in upper case as in libvirt.
    pub parameters: BTreeMap<String, String>,
}

/// Error of parsing a NIC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetworkError {
    /// A field is unknown.
    #[error(
        "'{0}' is not a field of a NIC: use dhcp, address=, route=, source=, bridge=, direct=, mode=, user, mac=, filter= and filter.NAME="
    )]
    Field(String),
    /// A field is given twice.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
    /// A field has no value.
    #[error("'{0}' has no value")]
    Empty(String),
    /// DHCP is combined with static addresses or routes.
    #[error("dhcp and {0} exclude each other")]
    DhcpAnd(&'static str),
    /// There are routes without an address of the NIC.
    #[error("a route needs an address of the NIC as well")]
    RouteWithoutAddress,
    /// There are filter parameters without a filter.
    #[error("filter parameters need filter=NAME")]
    ParameterWithoutFilter,
    /// There is more than one backend.
    #[error("a NIC has one of source=, bridge=, direct= and user")]
    Sources,
    /// `mode=` is used without `direct=`.
    #[error("mode= needs direct=DEVICE")]
    ModeWithoutDirect,
    /// The mode is unknown.
    #[error("'{0}' is not a mode of direct: use bridge, vepa, private or passthrough")]
    Mode(String),
    /// The name is too long for a network device.
    #[error(
        "'{0}' is not the name of a network device: it has at most {LONGEST_DEVICE} characters"
    )]
    Device(String),
    /// The hardware address is invalid.
    #[error(transparent)]
    Mac(#[from] ParseMacError),
    /// A name has a character that is not allowed.
    #[error("{0:?} is not a name")]
    Name(String),
    /// An address or a route is invalid.
    #[error(transparent)]
    Net(#[from] ParseNetError),
}

impl Network {
    /// Returns a NIC with DHCP in the libvirt network `source`.
    #[must_use]
    pub fn dhcp(source: &str) -> Self {
        Self {
            source: Some(Source::Network(source.to_owned())),
            mac: None,
            addressing: Addressing::Dhcp,
            filter: None,
        }
    }

    /// Returns the libvirt network of a container's NIC, if it is connected to one.
    #[must_use]
    pub fn container_network(&self) -> Option<&str> {
        match &self.source {
            None => Some(DEFAULT_SOURCE),
            Some(Source::Network(name)) => Some(name),
            Some(Source::Bridge(_) | Source::Direct { .. } | Source::User) => None,
        }
    }
}

/// Checks a name of a libvirt object: no separators of this grammar, nothing that XML cannot carry.
fn name(text: &str) -> Result<String, ParseNetworkError> {
    let is_odd = |c: char| is_unwritable(c) || c.is_whitespace() || "/,=<>&'\"".contains(c);
    if text.is_empty() || text.chars().any(is_odd) {
        return Err(ParseNetworkError::Name(text.to_owned()));
    }
    Ok(text.to_owned())
}

/// Maximum length of a network device's name: `IFNAMSIZ` of the kernel, without its NUL.
const LONGEST_DEVICE: usize = 15;

fn device(text: &str) -> Result<String, ParseNetworkError> {
    match text.len() <= LONGEST_DEVICE {
        true => name(text),
        false => Err(ParseNetworkError::Device(text.to_owned())),
    }
}

fn mode(text: &str) -> Result<DirectMode, ParseNetworkError> {
    DirectMode::ALL
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| ParseNetworkError::Mode(text.to_owned()))
}

/// Sets the backend of a NIC, of which there can be only one.
fn plug(slot: &mut Option<Source>, source: Source) -> Result<(), ParseNetworkError> {
    match slot.replace(source) {
        Some(_) => Err(ParseNetworkError::Sources),
        None => Ok(()),
    }
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
        let (mut source, mut direct_mode, mut mac, mut filter) = (None, None, None, None);
        let (mut addresses, mut routes) = (Vec::<Address>::new(), Vec::<Route>::new());
        let mut parameters = BTreeMap::new();
        for field in text.split(',') {
            if field == "dhcp" {
                once(&mut dhcp, "dhcp", ())?;
                continue;
            }
            if field == "user" {
                plug(&mut source, Source::User)?;
                continue;
            }
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| ParseNetworkError::Field(field.to_owned()))?;
            if value.is_empty() {
                return Err(ParseNetworkError::Empty(field.to_owned()));
            }
            match key {
                "source" => plug(&mut source, Source::Network(name(value)?))?,
                "bridge" => plug(&mut source, Source::Bridge(device(value)?))?,
                "direct" => plug(
                    &mut source,
                    Source::Direct {
                        device: device(value)?,
                        mode: DirectMode::default(),
                    },
                )?,
                "mode" => once(&mut direct_mode, "mode", mode(value)?)?,
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
        if let Some(chosen) = direct_mode {
            match &mut source {
                Some(Source::Direct { mode, .. }) => *mode = chosen,
                Some(Source::Network(_) | Source::Bridge(_) | Source::User) | None => {
                    return Err(ParseNetworkError::ModeWithoutDirect);
                }
            }
        }
        Ok(Self {
            source,
            mac,
            addressing,
            filter,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = Vec::new();
        match &self.addressing {
            Addressing::Dhcp => fields.push("dhcp".to_owned()),
            Addressing::None => {}
            Addressing::Static { addresses, routes } => {
                fields.extend(addresses.iter().map(|address| format!("address={address}")));
                fields.extend(routes.iter().map(|route| format!("route={route}")));
            }
        }
        fields.extend(self.source.as_ref().map(ToString::to_string));
        fields.extend(self.mac.map(|mac| format!("mac={mac}")));
        if let Some(filter) = &self.filter {
            fields.push(format!("filter={}", filter.name));
            let parameters = filter.parameters.iter();
            fields.extend(
                parameters.map(|(key, value)| format!("filter.{}={value}", key.to_lowercase())),
            );
        }
        f.write_str(&fields.join(","))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "source={name}"),
            Self::Bridge(name) => write!(f, "bridge={name}"),
            Self::Direct { device, mode } => write!(f, "direct={device},mode={}", mode.as_str()),
            Self::User => f.write_str("user"),
        }
    }
}

as_text!(Network);

/// Value of `-N`: a NIC, or none at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    /// `none`: no NIC.
    None,
    /// One NIC.
    Nic(Network),
}

impl NetworkChoice {
    /// Combines all choices; `None` if there are none.
    ///
    /// # Errors
    /// If `none` is combined with a NIC.
    pub fn nics(choices: &[Self]) -> crate::error::Result<Option<Vec<Network>>> {
        let nics: Vec<Network> = choices
            .iter()
            .filter_map(|choice| match choice {
                Self::Nic(nic) => Some(nic.clone()),
                Self::None => None,
            })
            .collect();
        if !nics.is_empty() && nics.len() < choices.len() {
            return Err(crate::error::Error::refused(
                "'-N none' and a NIC exclude each other",
            ));
        }
        Ok((!choices.is_empty()).then_some(nics))
    }
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
mod tests;
