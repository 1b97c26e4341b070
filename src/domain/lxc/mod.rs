//! A container's domain.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::Network;
use crate::config::network::{DEFAULT_SOURCE, Source};
use crate::config::resources::DEFAULT_CONTAINER_MEMORY;
use crate::domain::interface::Interface;
use crate::domain::tune::{Tune, quota_us};
use crate::domain::{BlockKind, Domain, Filesystem, SecLabelView, disk_name};
use crate::error::{Error, Result};
use crate::host::HostFacts;
use crate::sys::arch::Arch;

/// Capabilities that libvirt leaves a container and we take, in libvirt's spelling. None of them
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

/// Fields of the template of a container's domain.
#[derive(Debug, Serialize)]
pub struct LxcDomain {
    name: String,
    uuid: String,
    description: String,
    arch: Arch,
    memory_kib: u64,
    vcpus: u32,
    cpu_quota_us: Option<u64>,
    #[serde(flatten)]
    tune: Tune,
    on_reboot: &'static str,
    dropped_capabilities: Vec<&'static str>,
    granted_capabilities: Vec<String>,
    filesystems: Vec<Filesystem>,
    disks: Vec<Disk>,
    interfaces: Vec<Interface>,
    devices: Vec<PathBuf>,
    consoles: u32,
    security: Option<SecLabelView>,
}

#[derive(Debug, Serialize)]
struct Disk {
    source: PathBuf,
    target: String,
    read_only: bool,
}

/// Refuses what libvirt's containers cannot do.
///
/// # Errors
/// Name the option, why it cannot be and what to do instead.
pub fn check(domain: &Domain) -> Result<()> {
    for network in &domain.networks {
        if network.source == Some(Source::User) {
            return Err(Error::refused(format!(
                "the NIC '{network}': a container has no user-mode network; use source=NETWORK, bridge= or direct="
            )));
        }
    }
    if let Some(publish) = domain.publish.first() {
        return Err(Error::refused(format!(
            "publishing '{publish}': a container has an address of its own, which the host reaches as it is; only the \
             user-mode network of a virtual machine publishes ports"
        )));
    }
    for disk in &domain.disks {
        match disk.kind {
            BlockKind::Block => {}
            BlockKind::File => {
                return Err(Error::refused(format!(
                    "the disk '{}': a container takes block devices only; attach the image to one with 'losetup'",
                    disk.source.display()
                )));
            }
        }
    }
    Ok(())
}

impl LxcDomain {
    /// Returns the domain, with `filesystems` in the staging root.
    #[must_use]
    pub fn new(domain: &Domain, facts: &HostFacts, filesystems: Vec<Filesystem>) -> Self {
        let resources = &domain.resources;
        let default_source = Source::Network(DEFAULT_SOURCE.to_owned());
        let interface = |(index, network): (usize, &Network)| {
            let source = network.source.as_ref().unwrap_or(&default_source);
            Interface::new(index, network, source, network.mac, resources)
        };
        Self {
            name: domain.name.to_string(),
            uuid: domain.uuid.to_string(),
            description: domain.description.clone(),
            arch: facts.arch,
            memory_kib: resources.memory.unwrap_or(DEFAULT_CONTAINER_MEMORY).kibi(),
            vcpus: resources.cpus.unwrap_or(1),
            cpu_quota_us: resources.cpu_percent().map(quota_us),
            tune: Tune::new(resources),
            on_reboot: domain.on_reboot.as_str(),
            dropped_capabilities: DROPPED_CAPABILITIES.to_vec(),
            granted_capabilities: vec![],
            filesystems,
            disks: domain
                .disks
                .iter()
                .enumerate()
                .map(|(index, disk)| Disk {
                    source: disk.source.clone(),
                    target: disk_name("sd", index),
                    read_only: disk.read_only,
                })
                .collect(),
            interfaces: domain.networks.iter().enumerate().map(interface).collect(),
            devices: (domain.devices.iter())
                .map(|device| device.path().to_owned())
                .collect(),
            consoles: domain.consoles,
            security: domain.security.as_ref().map(SecLabelView::from),
        }
    }

    /// Grants capabilities that libvirt or we would take, by their names without `CAP_`.
    #[must_use]
    pub fn granting(mut self, names: &BTreeSet<&str>) -> Self {
        self.granted_capabilities = names.iter().map(|name| name.to_lowercase()).collect();
        self.dropped_capabilities
            .retain(|name| !names.contains(name.to_uppercase().as_str()));
        self
    }
}

#[cfg(test)]
mod tests;
