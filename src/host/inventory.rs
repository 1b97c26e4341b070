//! CPUs, memory and devices of the host, which limits and NICs of sandboxes may name.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::config::network::Source;
use crate::config::resources::{DeviceLimit, IdSet};
use crate::config::{Bytes, Network, Resources};
use crate::error::{Error, Result};

/// Parts of the host that limits and NICs name. A part that cannot be read is not checked.
#[derive(Debug)]
pub struct Inventory {
    cpus: Option<IdSet>,
    nodes: Option<IdSet>,
    memory: Option<Bytes>,
    /// Names of block devices.
    disks: Vec<String>,
    /// Names of network devices.
    nics: Vec<String>,
    bridges: Vec<String>,
}

impl Inventory {
    /// Reads the host's `/sys` and `/proc` below `root`.
    #[must_use]
    pub fn probe(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let online = |path: &str| text(path)?.trim().parse::<IdSet>().ok();
        let devices = |class: &str, is_one: &dyn Fn(&Path) -> bool| {
            let entries = fs::read_dir(root.join("sys/class").join(class));
            let entries = entries.into_iter().flatten().flatten();
            let mut names: Vec<String> = entries
                .filter(|entry| is_one(&entry.path()))
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        Self {
            cpus: online("sys/devices/system/cpu/online"),
            nodes: online("sys/devices/system/node/online"),
            memory: text("proc/meminfo").and_then(|text| total_memory(&text)),
            disks: devices("block", &|_| true),
            nics: devices("net", &|_| true),
            bridges: devices("net", &|device| device.join("bridge").is_dir()),
        }
    }

    /// Refuses limits and NICs that name something that the host does not have.
    ///
    /// # Errors
    /// The message has the setting, and what the host has.
    pub fn check(&self, resources: &Resources, networks: &[Network]) -> Result<()> {
        check_ids(
            "cpu-pinning",
            "CPU",
            resources.cpu_pinning.as_ref(),
            self.cpus.as_ref(),
        )?;
        check_ids(
            "numa-nodes",
            "NUMA node",
            resources.numa_nodes.as_ref(),
            self.nodes.as_ref(),
        )?;
        if let (Some(asked), Some(there)) = (resources.memory, self.memory)
            && asked > there
        {
            return Err(Error::refused(format!(
                "'memory' is {asked}, and this host has {there}"
            )));
        }
        for (key, limits) in [
            ("io-read", &resources.io_read),
            ("io-write", &resources.io_write),
            ("io-read-ops", &resources.io_read_ops),
            ("io-write-ops", &resources.io_write_ops),
        ] {
            limits
                .iter()
                .try_for_each(|limit| self.check_disk(key, limit))?;
        }
        for (key, limit) in [
            ("net-receive", resources.net_receive),
            ("net-send", resources.net_send),
        ] {
            if limit.is_some() && networks.is_empty() {
                return Err(Error::refused(format!(
                    "'{key}' is a limit of each NIC, and there is none: add one with -N, or leave the limit out"
                )));
            }
        }
        networks
            .iter()
            .try_for_each(|network| self.check_nic(network))
    }

    fn check_disk(&self, key: &str, limit: &DeviceLimit) -> Result<()> {
        let metadata = fs::metadata(&limit.device);
        if metadata.is_ok_and(|metadata| metadata.file_type().is_block_device()) {
            return Ok(());
        }
        Err(Error::refused(format!(
            "'{key}' names '{}', which is no block device of this host ({})",
            limit.device.display(),
            list(
                self.disks
                    .iter()
                    .map(|name| Path::new("/dev").join(name).display().to_string())
            )
        )))
    }

    fn check_nic(&self, network: &Network) -> Result<()> {
        let (name, what, known) = match &network.source {
            Some(Source::Bridge(name)) => (name, "bridge", &self.bridges),
            Some(Source::Direct { device, .. }) => (device, "network device", &self.nics),
            Some(Source::Network(_) | Source::User) | None => return Ok(()),
        };
        // Without /sys nothing is known.
        if known.contains(name) || self.nics.is_empty() {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "this host has no {what} '{name}' ({})",
            list(known.iter().cloned())
        )))
    }
}

fn check_ids(key: &str, what: &str, asked: Option<&IdSet>, there: Option<&IdSet>) -> Result<()> {
    let (Some(asked), Some(there)) = (asked, there) else {
        return Ok(());
    };
    match asked.without(there) {
        None => Ok(()),
        Some(missing) => Err(Error::refused(format!(
            "'{key}' names {what} {missing}, which this host does not have (it has {there})"
        ))),
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.as_slice() {
        [] => "it has none".to_owned(),
        names => format!("it has {}", names.join(", ")),
    }
}

/// Parses `MemTotal` of /proc/meminfo (proc_meminfo(5)), in whole MiB.
fn total_memory(text: &str) -> Option<Bytes> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibi: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(Bytes::mebi(u32::try_from(kibi.div_ceil(1024)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> (tempfile::TempDir, Inventory) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("sys/devices/system/cpu/online", "0-1,4\n"),
            ("sys/devices/system/node/online", "0\n"),
            (
                "proc/meminfo",
                "MemTotal:        4096000 kB\nMemFree: 1 kB\n",
            ),
            ("sys/class/net/eth0/mtu", ""),
            ("sys/class/net/br0/bridge/x", ""),
            ("sys/class/block/sda/x", ""),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let inventory = Inventory::probe(root.path());
        (root, inventory)
    }

    fn network(text: &str) -> Vec<Network> {
        match text {
            "" => vec![],
            text => vec![text.parse().unwrap()],
        }
    }

    #[test]
    fn what_the_host_does_not_have_is_refused_and_what_it_has_is_named() {
        let (_root, inventory) = inventory();
        for (change, nic, words) in [
            (
                "cpu-pinning=1-3",
                "",
                &["'cpu-pinning'", "CPU 2-3", "0-1,4"][..],
            ),
            (
                "numa-nodes=0-1",
                "",
                &["'numa-nodes'", "NUMA node 1", "it has 0"],
            ),
            ("memory=8G", "", &["'memory' is 8G", "4000M"]),
            (
                "io-read=/dev/null=1M",
                "",
                &["'io-read'", "'/dev/null'", "/dev/sda"],
            ),
            ("io-write-ops=/none=1", "", &["'io-write-ops'", "'/none'"]),
            ("net-send=1M", "", &["'net-send'", "-N"]),
            (
                "memory=1G",
                "dhcp,bridge=eth0",
                &["bridge 'eth0'", "it has br0"],
            ),
            (
                "memory=1G",
                "dhcp,direct=eth9",
                &["network device 'eth9'", "br0, eth0"],
            ),
        ] {
            let resources = Resources::default().with_changes(&[change.parse().unwrap()]);
            let refused = inventory
                .check(&resources.unwrap(), &network(nic))
                .unwrap_err();
            for word in words {
                assert!(refused.to_string().contains(word), "{change}: {refused}");
            }
        }
    }

    #[test]
    fn what_the_host_has_is_accepted() {
        let (_root, inventory) = inventory();
        let changes = [
            "cpu-pinning=0-1,4",
            "numa-nodes=0",
            "memory=4000M",
            "net-send=1M",
        ];
        let changes = changes.map(|change| change.parse().unwrap());
        let resources = Resources::default().with_changes(&changes).unwrap();
        for nic in ["dhcp,bridge=br0", "dhcp,direct=eth0", "dhcp"] {
            inventory.check(&resources, &network(nic)).unwrap();
        }
        // Nothing is known there.
        let nowhere = Inventory::probe(Path::new("/nonexistent"));
        nowhere
            .check(&resources, &network("dhcp,bridge=br9"))
            .unwrap();
    }
}
