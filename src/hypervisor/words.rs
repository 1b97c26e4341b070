//! What libvirt says, read: documents and reasons. Pure.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// The first range of IPv4 addresses in the XML of a network.
pub(super) fn parse_range(xml: &str) -> Option<RangeInclusive<Ipv4Addr>> {
    let document = roxmltree::Document::parse(xml).ok()?;
    document
        .descendants()
        .filter(|node| node.has_tag_name("range"))
        .find_map(|range| {
            let address = |name| range.attribute(name)?.parse::<Ipv4Addr>().ok();
            Some(address("start")?..=address("end")?)
        })
}

/// What to do about a failed start, where the reason is known.
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
