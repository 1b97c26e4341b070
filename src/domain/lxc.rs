//! A container's domain.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::{Bytes, Network, Resources, SandboxConfig};
use crate::domain::Filesystem;
use crate::host::HostFacts;

/// Capabilities taken from what libvirt leaves a container, in libvirt's spelling. None of them
/// is of use to a service, and each reaches past the namespaces: files by handle (`open_by_handle_at(2)`), raw I/O
/// ports, the kernel's log and its security policy.
const DROPPED_CAPABILITIES: [&str; 6] = [
    "dac_read_search",
    "sys_rawio",
    "syslog",
    "mac_override",
    "wake_alarm",
    "block_suspend",
];

/// What the template of a container's domain is filled with.
#[derive(Debug, Serialize)]
pub struct LxcDomain {
    name: String,
    uuid: String,
    description: String,
    arch: String,
    memory_kib: u64,
    vcpus: u32,
    cpuset: Option<String>,
    cpu_shares: Option<u64>,
    cpu_quota_us: Option<u64>,
    nodeset: Option<String>,
    io_weight: Option<u32>,
    io_devices: Vec<IoDevice>,
    dropped_capabilities: &'static [&'static str],
    filesystems: Vec<Filesystem>,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Serialize)]
struct IoDevice {
    path: String,
    limits: Vec<IoLimit>,
}

#[derive(Debug, Serialize)]
struct IoLimit {
    element: &'static str,
    amount: u64,
}

#[derive(Debug, Serialize)]
struct Interface {
    mac: Option<String>,
    network: String,
    guest_name: String,
    filter: Option<Filter>,
    receive_kib: Option<u64>,
    send_kib: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Filter {
    name: String,
    parameters: Vec<Parameter>,
}

#[derive(Debug, Serialize)]
struct Parameter {
    name: String,
    value: String,
}

/// Period of the CPU quota, in microseconds: the template says the same.
const CPU_PERIOD_US: u64 = 100_000;

impl LxcDomain {
    /// The domain of `config`, with `filesystems` as the guest side wants them.
    #[must_use]
    pub fn new(config: &SandboxConfig, facts: &HostFacts, filesystems: Vec<Filesystem>) -> Self {
        let resources = &config.resources;
        Self {
            name: config.name.to_string(),
            uuid: config.uuid.to_string(),
            description: format!("virt-sandbox: {}", config.units.join(" ")),
            arch: facts.arch.clone(),
            memory_kib: resources.memory().kibi(),
            vcpus: resources.cpus.unwrap_or(1),
            cpuset: resources.cpu_pinning.as_ref().map(ToString::to_string),
            cpu_shares: resources.cpu_shares,
            cpu_quota_us: resources
                .cpu_percent()
                .map(|percent| u64::from(percent) * CPU_PERIOD_US / 100),
            nodeset: resources.numa_nodes.as_ref().map(ToString::to_string),
            io_weight: resources.io_weight,
            io_devices: io_devices(resources),
            dropped_capabilities: &DROPPED_CAPABILITIES,
            filesystems,
            interfaces: config
                .networks
                .iter()
                .enumerate()
                .map(|(index, network)| interface(index, network, resources))
                .collect(),
        }
    }
}

fn io_devices(resources: &Resources) -> Vec<IoDevice> {
    let mut devices: BTreeMap<String, Vec<IoLimit>> = BTreeMap::new();
    for (element, limits) in [
        ("read_iops_sec", &resources.io_read_ops),
        ("write_iops_sec", &resources.io_write_ops),
        ("read_bytes_sec", &resources.io_read),
        ("write_bytes_sec", &resources.io_write),
    ] {
        for limit in limits {
            devices
                .entry(limit.device.display().to_string())
                .or_default()
                .push(IoLimit {
                    element,
                    amount: limit.amount.get(),
                });
        }
    }
    devices
        .into_iter()
        .map(|(path, limits)| IoDevice { path, limits })
        .collect()
}

fn interface(index: usize, network: &Network, resources: &Resources) -> Interface {
    // libvirt's bandwidth is in KiB a second and not zero.
    let kib = |limit: Option<Bytes>| limit.map(|limit| limit.kibi().max(1));
    Interface {
        mac: network.mac.map(|mac| mac.to_string()),
        network: network.source.clone(),
        guest_name: format!("eth{index}"),
        filter: network.filter.as_ref().map(|filter| Filter {
            name: filter.name.clone(),
            parameters: filter
                .parameters
                .iter()
                .map(|(name, value)| Parameter {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }),
        receive_kib: kib(resources.net_receive),
        send_kib: kib(resources.net_send),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::template::Template;

    fn config(resources: Resources, networks: &[&str]) -> SandboxConfig {
        SandboxConfig {
            networks: networks
                .iter()
                .map(|network| network.parse().unwrap())
                .collect(),
            resources,
            ..SandboxConfig::example()
        }
    }

    fn render(config: &SandboxConfig) -> String {
        let facts = HostFacts {
            arch: "x86_64".into(),
            system_dirs: vec![],
            mount_points: vec![],
        };
        let filesystems = vec![
            Filesystem {
                source: "/stage".into(),
                target: "/".into(),
                read_only: false,
            },
            Filesystem {
                source: "/usr<&'".into(),
                target: "/host/usr".into(),
                read_only: true,
            },
        ];
        let domain = LxcDomain::new(config, &facts, filesystems);
        Template::LxcDomain.render(&domain, None).unwrap()
    }

    /// libvirt's own schema, asked through its test driver: no daemon is needed.
    fn assert_valid(xml: &str) {
        virt::error::clear_error_callback();
        let connection = virt::connect::Connect::open(Some("test:///default")).unwrap();
        let flags = virt::sys::VIR_DOMAIN_DEFINE_VALIDATE;
        connection.define_domain_xml_flags(xml, flags).unwrap();
    }

    #[test]
    fn the_smallest_domain() {
        let xml = render(&config(Resources::default(), &[]));
        assert_valid(&xml);
        insta::assert_snapshot!(xml);
    }

    #[test]
    fn every_setting_is_in_the_domain() {
        let resources = Resources {
            memory: Some("1G".parse().unwrap()),
            cpus: Some(2),
            cpu_shares: Some(512),
            cpu_quota: Some(150),
            cpu_pinning: Some("0-1".parse().unwrap()),
            numa_nodes: Some("0".parse().unwrap()),
            pids: Some(100),
            io_weight: Some(200),
            io_read: vec!["/dev/sda=10M".parse().unwrap()],
            io_write: vec!["/dev/sdb=5M".parse().unwrap()],
            io_read_ops: vec!["/dev/sda=100".parse().unwrap()],
            io_write_ops: vec!["/dev/sda=50".parse().unwrap()],
            net_receive: Some("10M".parse().unwrap()),
            net_send: Some("1".parse().unwrap()),
        };
        let networks = [
            "dhcp,mac=52:54:00:12:34:56,filter=clean-traffic,filter.ip=192.0.2.7",
            "address=192.0.2.7/24,source=lab",
        ];
        let xml = render(&config(resources, &networks));
        assert_valid(&xml);
        insta::assert_snapshot!(xml);
    }
}
