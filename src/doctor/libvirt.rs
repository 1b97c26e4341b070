//! libvirt: its drivers, versions and networks.

use std::sync::Arc;

use super::{Fact, Level};
use crate::config::network::DEFAULT_SOURCE;
use crate::driver::Driver;
use crate::error::ErrorKind;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::libvirt::{self, Version};
use crate::service::Sandboxes;

/// Oldest version that the project is made for.
const OLDEST: Version = Version {
    major: 9,
    minor: 0,
    release: 0,
};

/// First version that freezes containers of a host with cgroup version 2 alone.
const FREEZES: Version = Version {
    major: 12,
    minor: 4,
    release: 0,
};

/// Connects to a driver, at the connection of new sandboxes if that is of this driver; the fact tells how that went.
pub(super) fn driver(
    sandboxes: &Sandboxes,
    driver: Driver,
    usual_uri: &str,
) -> (Fact, Option<Arc<dyn Hypervisor>>) {
    let asked = sandboxes.connection.as_str();
    let uri = match Driver::of_service(asked) {
        Ok(found) if found == driver => asked,
        Ok(_) | Err(_) => usual_uri,
    };
    match sandboxes.connector.open(uri) {
        Ok(hypervisor) => (Fact::ok(format!("'{uri}' answers")), Some(hypervisor)),
        Err(error) => (Fact::unknown(Level::Missing, &error), None),
    }
}

/// Judges the version of libvirt.
pub(super) fn version(has_version_2_alone: bool) -> Fact {
    match libvirt::library_version() {
        Ok(version) => judge_version(version, has_version_2_alone),
        Err(error) => Fact::unknown(Level::Limited, &error),
    }
}

fn judge_version(version: Version, has_version_2_alone: bool) -> Fact {
    if version < OLDEST {
        return Fact::limited(
            format!("{version}, which nobody has tried"),
            format!("upgrade libvirt to {OLDEST} or later"),
        );
    }
    if has_version_2_alone && version < FREEZES {
        return Fact::limited(
            format!("{version} cannot freeze containers with cgroup version 2"),
            "stop a container whose tree is in an image before you snapshot, clone or export it",
        );
    }
    Fact::ok(version.to_string())
}

/// Judges the network that sandboxes are attached to unless they name another one.
pub(super) fn network(hypervisor: &dyn Hypervisor) -> Fact {
    match hypervisor.is_network_active(DEFAULT_SOURCE) {
        Ok(true) => Fact::ok(format!("'{DEFAULT_SOURCE}' is active")),
        Ok(false) => Fact::ok(format!(
            "'{DEFAULT_SOURCE}' is inactive; a sandbox that needs it starts it"
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Fact::limited(
            format!("there is no '{DEFAULT_SOURCE}'"),
            "'virsh net-define /usr/share/libvirt/networks/default.xml', or use -N none or -N dhcp,source=NAME",
        ),
        Err(error) => Fact::unknown(Level::Limited, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_limits_of_versions_are_told() {
        let version = |major, minor| Version {
            major,
            minor,
            release: 0,
        };
        let level = |found, has_version_2_alone| judge_version(found, has_version_2_alone).level;
        assert_eq!(level(version(8, 10), false), Level::Limited);
        assert_eq!(level(version(9, 0), false), Level::Ok);
        assert_eq!(level(version(11, 3), true), Level::Limited);
        assert_eq!(level(version(11, 3), false), Level::Ok);
        assert_eq!(level(version(12, 4), true), Level::Ok);
    }
}
