//! Parsers of libvirt's documents and error messages.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use super::Subnet;

/// Returns the first range of IPv4 addresses in the document of a network.
pub(super) fn range(xml: &str) -> Option<RangeInclusive<Ipv4Addr>> {
    let document = roxmltree::Document::parse(xml).ok()?;
    document
        .descendants()
        .filter(|node| node.has_tag_name("range"))
        .find_map(|range| {
            let address = |name| range.attribute(name)?.parse::<Ipv4Addr>().ok();
            Some(address("start")?..=address("end")?)
        })
}

/// Returns the subnets in the document of a network. The default prefix is that of the address class, and 64 for IPv6
/// (`virSocketAddrGetIPPrefix` in libvirt).
pub(super) fn subnets(xml: &str) -> Vec<Subnet> {
    let Ok(document) = roxmltree::Document::parse(xml) else {
        return vec![];
    };
    let of_network = document.root_element().children();
    let subnet = |ip: roxmltree::Node<'_, '_>| {
        let address: IpAddr = ip.attribute("address")?.parse().ok()?;
        let prefix = ip
            .attribute("prefix")
            .and_then(|prefix| prefix.parse().ok());
        let netmask = ip
            .attribute("netmask")
            .and_then(|mask| mask.parse::<Ipv4Addr>().ok());
        let usual = match address {
            IpAddr::V4(v4) => match v4.octets()[0] {
                0..128 => 8,
                128..192 => 16,
                192.. => 24,
            },
            IpAddr::V6(_) => 64,
        };
        let masked = netmask.map(|mask| mask.to_bits().leading_ones() as u8);
        Some(Subnet {
            address,
            prefix: prefix.or(masked).unwrap_or(usual),
        })
    };
    of_network
        .filter(|node| node.has_tag_name("ip"))
        .filter_map(subnet)
        .collect()
}

/// Returns true for the error of a daemon that closed the connection while it was being opened
/// (`virNetSocketReadWire` and `virNetSocketWriteWire` in libvirt's virnetsocket.c).
pub(super) fn is_hang_up(message: &str) -> bool {
    [
        "End of file while reading data",
        "Connection reset by peer",
        "Broken pipe",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// Returns the remedy for a failed start, if the reason is known.
pub(super) fn hint(reason: &str) -> Option<&'static str> {
    [
        (
            &["/sys/fs/cgroup/unified", "error receiving signal from container"][..],
            "libvirt's containers do not start where cgroup versions 1 and 2 are mounted side by side; boot the host with \
             'systemd.unified_cgroup_hierarchy=1', or run libvirtd in a mount namespace without /sys/fs/cgroup/unified \
             and /sys/fs/cgroup/systemd",
        ),
        (
            &["'memory' cgroups controller"][..],
            "the kernel's memory controller is off; boot with 'cgroup_enable=memory'",
        ),
    ]
    .into_iter()
    .find(|(signs, _)| signs.iter().any(|sign| reason.contains(sign)))
    .map(|(_, hint)| hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_hangs_up_differs_from_one_that_is_not_there() {
        assert!(is_hang_up("Cannot recv data: Connection reset by peer"));
        assert!(is_hang_up(
            "End of file while reading data: Input/output error"
        ));
        assert!(!is_hang_up(
            "Failed to connect socket to '/run/libvirt/libvirt-sock': Connection refused"
        ));
    }

    #[test]
    fn subnets_of_a_network_are_parsed() {
        let xml = "<network><ip address='192.168.122.1' netmask='255.255.254.0'><dhcp><range start='192.168.122.2' end='192.168.122.9'/>\
            <host ip='10.0.0.1'/></dhcp></ip><ip family='ipv6' address='2001:db8::1' prefix='56'/><ip address='10.1.2.3'/>\
            <route address='203.0.113.0' prefix='24' gateway='192.168.122.2'/></network>";
        let shown = subnets(xml)
            .into_iter()
            .map(|subnet| format!("{}/{}", subnet.address, subnet.prefix))
            .collect::<Vec<_>>();
        assert_eq!(shown, ["192.168.122.1/23", "2001:db8::1/56", "10.1.2.3/8"]);
        assert_eq!(subnets("<network><forward mode='bridge'/></network>"), []);
    }
}
