//! Addresses of a sandbox for display: those that it reports, if the host knows that it may have them.

use std::net::IpAddr;

use guest_init::config::Addressing;
use nix::ifaddrs::getifaddrs;

use crate::config::SandboxConfig;
use crate::config::network::Source;
use crate::hypervisor::{Hypervisor, Subnet};

/// Maximum number of addresses that are shown of one sandbox.
const MOST: usize = 64;

/// Possible addresses of a sandbox.
#[derive(Debug, Default)]
pub(in crate::service) struct Expected {
    /// Static addresses from the sandbox's configuration.
    given: Vec<IpAddr>,
    /// Subnets of its networks; `None` if libvirt does not know one of them, as for a bridge.
    subnets: Option<Vec<Subnet>>,
    /// Addresses of the host's interfaces.
    hosts: Vec<IpAddr>,
}

impl Expected {
    /// Collects the addresses from the configuration, libvirt's networks and the host's interfaces.
    pub(in crate::service) fn of(config: &SandboxConfig, hypervisor: &dyn Hypervisor) -> Self {
        let given = config
            .networks
            .iter()
            .flat_map(|nic| match &nic.addressing {
                Addressing::Static { addresses, .. } => addresses.iter().map(|it| it.ip).collect(),
                Addressing::None | Addressing::Dhcp => vec![],
            });
        let subnets = config.networks.iter().map(|nic| match &nic.source {
            Some(Source::Network(name)) => {
                let subnets = hypervisor.subnets(name);
                let known = subnets.inspect_err(|error| log::debug!("{error}")).ok();
                known.filter(|subnets| !subnets.is_empty())
            }
            None | Some(Source::Bridge(_) | Source::Direct { .. } | Source::User) => None,
        });
        let interfaces = getifaddrs().into_iter().flatten();
        let hosts = interfaces.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        Self {
            given: given.collect(),
            subnets: subnets.collect::<Option<Vec<_>>>().map(|all| all.concat()),
            hosts: hosts.collect(),
        }
    }

    /// Returns those of the reported addresses that may be shown.
    pub(in crate::service) fn shown(&self, said: Vec<IpAddr>) -> Vec<String> {
        let may_be = |address: &IpAddr| match &self.subnets {
            _ if self.hosts.contains(address) => false,
            _ if self.given.contains(address) => true,
            Some(subnets) => subnets.iter().any(|subnet| subnet.contains(*address)),
            None => true,
        };
        let shown = said.into_iter().filter(may_be).take(MOST);
        shown.map(|address| address.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        let words = text.split_whitespace();
        words.map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn a_sandbox_has_the_addresses_that_it_can_have() {
        let said =
            addresses("10.77.0.1 192.0.2.1 192.0.2.9 198.51.100.7 2001:db8::9 2001:db8:1::9");
        let subnet = |address: &str, prefix| Subnet {
            address: address.parse().unwrap(),
            prefix,
        };
        let mut expected = Expected {
            given: addresses("10.77.0.1"),
            subnets: Some(vec![subnet("192.0.2.1", 24), subnet("2001:db8::1", 64)]),
            // An address of the host cannot be the sandbox's.
            hosts: addresses("192.0.2.1"),
        };
        let shown = expected.shown(said.clone());
        assert_eq!(shown, ["10.77.0.1", "192.0.2.9", "2001:db8::9"]);
        expected.given = addresses("192.0.2.1");
        assert!(
            !expected
                .shown(said.clone())
                .contains(&"192.0.2.1".to_owned())
        );
        expected.subnets = None;
        assert_eq!(expected.shown(said.clone()).len(), said.len() - 1);
        // A sandbox without a NIC has no addresses.
        expected.subnets = Some(vec![]);
        assert_eq!(expected.shown(said), Vec::<String>::new());
    }

    #[test]
    fn no_more_is_told_than_anybody_reads() {
        let said = (0..5000_u32).map(|last| IpAddr::V4((0x0a4d_0000 + last).into()));
        let shown = Expected::default().shown(said.collect());
        assert_eq!(shown.len(), MOST);
    }
}
