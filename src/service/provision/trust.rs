//! Claims of an archived sandbox on the importing host.
//!
//! Pure. Every field of the configuration is judged by name, so a new field does not compile until it is judged.

use std::collections::BTreeSet;

use guest_init::config::Addressing;

use crate::config::network::{DEFAULT_SOURCE, Source};
use crate::config::resources::{DEFAULT_CONTAINER_MEMORY, DEFAULT_PIDS};
use crate::config::security::trust::Trust;
use crate::config::{Bytes, Mount, Network, Resources, SandboxConfig, TreeImage};
use crate::error::{Error, Result};

/// One resource of the host that an archive claims.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::service) struct Tie {
    kind: Trust,
    what: String,
}

/// Maximum size of a tree's image without trust. The filesystem of a larger one takes long to create.
const LARGEST_IMAGE: Bytes = Bytes::mebi(1 << 20);

/// Default weight of a sandbox on busy CPUs (the kernel's `cpu.shares`) and disks (`blkio.weight`).
const DEFAULT_CPU_SHARES: u64 = 1024;
const DEFAULT_IO_WEIGHT: u32 = 500;

/// Maximum time to become active that `create` accepts, in seconds.
const LONGEST_TIMEOUT: u32 = 86_400;

/// Returns the claims of an archived configuration.
pub(in crate::service) fn of(config: &SandboxConfig) -> Vec<Tie> {
    let SandboxConfig {
        // An import takes these from this host and its administrator: `Sandboxes::imported`.
        version: _,
        name: _,
        uuid: _,
        connection: _,
        path: _,
        security: _,
        file_type: _,
        idmap: _,
        seccomp: _,
        capabilities: _,
        kernel: _,
        // Programs come from `/usr`, which every sandbox sees. Upgrades copy only files that every user of
        // the host may read: `upgrade::public`.
        workload: _,
        service_packages: _,
        keep_units: _,
        // A guest may choose its host name anyway.
        hostname: _,
        // These refer to `publish`.
        on_demand: _,
        idle_stop: _,
        packages,
        timeout,
        networks,
        mounts,
        devices,
        credentials,
        publish,
        image,
        resources,
    } = config;
    let mut ties = Vec::new();
    let mut add = |kind, what: String| ties.push(Tie { kind, what });
    for package in packages {
        add(Trust::Units, format!("package {package}"));
    }
    for network in networks.iter().filter(|network| is_of_host(network)) {
        add(Trust::Networks, network.to_string());
    }
    for publish in publish {
        add(Trust::Ports, publish.to_string());
    }
    for mount in mounts {
        match mount {
            Mount::HostBind { .. } | Mount::HostImage { .. } => {
                add(Trust::Mounts, mount.to_string());
            }
            // These mounts only involve the sandbox itself.
            Mount::GuestBind { .. } | Mount::Ram { .. } => {}
        }
    }
    for device in devices.iter().filter(|device| !device.is_harmless()) {
        add(Trust::Devices, device.to_string());
    }
    for credential in credentials {
        add(Trust::Credentials, credential.to_string());
    }
    if *timeout > LONGEST_TIMEOUT {
        add(Trust::Limits, format!("timeout {timeout}"));
    }
    if let Some(TreeImage { size, .. }) = image
        && *size > LARGEST_IMAGE
    {
        add(Trust::Limits, format!("image of {size}"));
    }
    for limit in beyond_default(resources) {
        add(Trust::Limits, limit);
    }
    ties.sort();
    ties
}

/// Refuses claims that `trust` does not cover.
///
/// # Errors
/// The message lists all claims, and how to import the archive.
pub(in crate::service) fn refuse_untrusted(
    config: &SandboxConfig,
    trust: &BTreeSet<Trust>,
) -> Result<()> {
    let mut ties = of(config);
    ties.retain(|tie| !tie.kind.is_in(trust));
    let kinds: BTreeSet<Trust> = ties.iter().map(|tie| tie.kind).collect();
    if kinds.is_empty() {
        return Ok(());
    }
    let mut text =
        "the sandbox in the archive asks for what is this host's and was not named:\n".to_owned();
    for Tie { kind, what } in &ties {
        text.push_str(&format!("  {:<11} {what}\n", kind.as_str()));
    }
    let needed: BTreeSet<Trust> = trust.iter().chain(&kinds).copied().collect();
    let words: Vec<&str> = needed.iter().map(|kind| kind.as_str()).collect();
    text.push_str(&format!(
        "import it with --trust={} if it may have that",
        words.join(",")
    ));
    let of_mounts = [Trust::Mounts, Trust::Devices];
    if of_mounts.iter().any(|kind| kinds.contains(kind)) {
        text.push_str("; --trust-mounts stands for --trust=mounts,devices");
    }
    if kinds.contains(&Trust::Networks) {
        text.push_str("; -N NIC, or -N none, replaces its NICs");
    }
    Err(Error::refused(text))
}

/// Returns true if a NIC is more than a client of the default network.
fn is_of_host(network: &Network) -> bool {
    let Network {
        source,
        addressing,
        // Root inside can set any address, and a filter only restricts it.
        mac: _,
        filter: _,
    } = network;
    let is_default = match source {
        None => true,
        Some(Source::Network(name)) => name == DEFAULT_SOURCE,
        // With `user`, the hypervisor makes connections from the host, and so to its loopback too.
        Some(Source::Bridge(_) | Source::Direct { .. } | Source::User) => false,
    };
    !is_default || matches!(addressing, Addressing::Static { .. })
}

/// Returns the limits that give more than the defaults, or that name parts of the host.
fn beyond_default(resources: &Resources) -> Vec<String> {
    let Resources {
        memory,
        cpu_shares,
        cpu_pinning,
        numa_nodes,
        pids,
        io_weight,
        // These only restrict.
        cpus: _,
        cpu_quota: _,
        io_read: _,
        io_write: _,
        io_read_ops: _,
        io_write_ops: _,
        net_receive: _,
        net_send: _,
    } = resources;
    let more = [
        memory
            .filter(|memory| *memory > DEFAULT_CONTAINER_MEMORY)
            .map(|memory| format!("memory {memory}")),
        pids.filter(|pids| *pids > DEFAULT_PIDS)
            .map(|pids| format!("pids {pids}")),
        cpu_shares
            .filter(|shares| *shares > DEFAULT_CPU_SHARES)
            .map(|shares| format!("cpu-shares {shares}")),
        io_weight
            .filter(|weight| *weight > DEFAULT_IO_WEIGHT)
            .map(|weight| format!("io-weight {weight}")),
        cpu_pinning.as_ref().map(|set| format!("cpu-pinning {set}")),
        numa_nodes.as_ref().map(|set| format!("numa-nodes {set}")),
    ];
    more.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut SandboxConfig)) -> SandboxConfig {
        let mut config = SandboxConfig::example();
        change(&mut config);
        config
    }

    fn kinds(config: &SandboxConfig) -> Vec<Trust> {
        of(config).into_iter().map(|tie| tie.kind).collect()
    }

    /// Every key of `sandbox.toml` with a claim on the host, and the trust that it needs.
    #[test]
    fn every_key_of_an_archive_is_judged() {
        let judged = [
            ("packages = ['pgbouncer']", vec![Trust::Units]),
            ("service-packages = ['postgresql']", vec![]),
            ("keep-units = ['x.service']", vec![]),
            ("hostname = 'bank'", vec![]),
            ("security = 'static,label=unconfined_t'", vec![]),
            ("file-type = 'etc_t'", vec![]),
            ("seccomp = 'off'", vec![]),
            ("idmap = 'no'", vec![]),
            ("capabilities.add = ['sys_admin']", vec![]),
            ("timeout = 4000000000", vec![Trust::Limits]),
            ("networks = ['dhcp']", vec![]),
            ("networks = ['dhcp,source=default']", vec![]),
            (
                "networks = ['dhcp,mac=52:54:00:00:00:01,filter=clean-traffic']",
                vec![],
            ),
            ("networks = ['dhcp,source=lan']", vec![Trust::Networks]),
            ("networks = ['dhcp,bridge=br0']", vec![Trust::Networks]),
            ("networks = ['dhcp,direct=eth0']", vec![Trust::Networks]),
            ("networks = ['user']", vec![Trust::Networks]),
            (
                "networks = ['address=127.0.0.1/8,source=default']",
                vec![Trust::Networks],
            ),
            ("publish = ['80:80']", vec![Trust::Ports]),
            ("publish = ['127.0.0.1:8080:80']", vec![Trust::Ports]),
            (
                "publish = ['80:80']\non-demand = true\nidle-stop = 1",
                vec![Trust::Ports],
            ),
            ("mounts = ['host-bind:/x=/etc']", vec![Trust::Mounts]),
            ("mounts = ['host-bind:/x=/etc,ro']", vec![Trust::Mounts]),
            ("mounts = ['guest-bind:/x=/srv', 'ram:/y=1M']", vec![]),
            ("devices = ['/dev/kvm']", vec![Trust::Devices]),
            ("devices = ['/dev/net/tun']", vec![]),
            ("credentials = ['x:/etc/shadow']", vec![Trust::Credentials]),
            ("image = { size = '2T' }", vec![Trust::Limits]),
            ("image = { size = '1G' }", vec![]),
            ("resources.memory = '2G'", vec![]),
            ("resources.memory = '1T'", vec![Trust::Limits]),
            ("resources.pids = 4000000", vec![Trust::Limits]),
            ("resources.cpu-shares = 262144", vec![Trust::Limits]),
            ("resources.io-weight = 1000", vec![Trust::Limits]),
            ("resources.cpu-pinning = '0'", vec![Trust::Limits]),
            ("resources.numa-nodes = '0'", vec![Trust::Limits]),
            ("resources.cpus = 1", vec![]),
            ("resources.io-read = ['/dev/sda=1M']", vec![]),
        ];
        for (line, expected) in judged {
            let key = line.split([' ', '.']).next().unwrap();
            let good = SandboxConfig::example().to_toml().unwrap();
            // Tables come last, and each key occurs once.
            let kept: String = good
                .lines()
                .filter(|kept| !kept.starts_with(&format!("{key} ")) && *kept != "[resources]")
                .map(|kept| format!("{kept}\n"))
                .collect();
            let text = format!("{kept}{line}\n");
            match SandboxConfig::parse(&text, std::path::Path::new("x")) {
                Ok(config) => assert_eq!(kinds(&config), expected, "{line}"),
                Err(error) => panic!("{line}: {error}"),
            }
        }
    }

    #[test]
    fn the_refusal_lists_every_claim_and_its_flag() {
        let config = with(|config| {
            config.networks = vec!["dhcp,direct=eth0".parse().unwrap()];
            config.mounts = vec!["host-bind:/x=/etc".parse().unwrap()];
            config.publish = vec!["80:80".parse().unwrap()];
        });
        let told = |trust: &[Trust]| {
            let trust = trust.iter().copied().collect();
            refuse_untrusted(&config, &trust).map_err(|error| error.to_string())
        };
        let text = told(&[]).unwrap_err();
        for word in [
            "direct=eth0",
            "host-bind:/x=/etc",
            "80:80",
            "--trust=networks,ports,mounts ",
            "--trust-mounts",
            "-N none",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let text = told(&[Trust::Ports, Trust::Mounts]).unwrap_err();
        assert!(
            text.contains("--trust=networks,ports,mounts ") && !text.contains("/etc"),
            "{text}"
        );
        told(&[Trust::Networks, Trust::Ports, Trust::Mounts]).unwrap();
        told(&[Trust::All]).unwrap();
    }
}
