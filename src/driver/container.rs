//! Sandboxes of services in containers: entered through their namespaces, looked at through the host's `/proc`.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest_init::config::{GuestConfig, IdMap, Payload, Platform, Staged, StaticUnits};
use guest_init::seccomp::usual::Confined;
use guest_init::sys::first_process::ProcDir;

use crate::config::resources::DEFAULT_CONTAINER_MEMORY;
use crate::config::{Confinement, Device, Resources, SandboxConfig, SandboxName};
use crate::domain::lxc::{self, LxcDomain};
use crate::domain::template::Template;
use crate::domain::tune::{CPU_PERIOD_US, quota_us};
use crate::domain::{BlockDevice, Domain, Filesystem, OnReboot, disk_name};
use crate::driver::{
    ANSWER, Activity, Contents, Inside, Keeper, Owners, Reach, Shared, Site, addresses,
};
use crate::error::{Error, Result};
use crate::guest::ids::{self, Registry};
use crate::guest::{self, Assembly, confinement};
use crate::host::HostFacts;
use crate::host::cgroup;
use crate::hypervisor::{Hypervisor, Limit};
use crate::label::selinux::{self, Kind};
use crate::sys::process::command::Captured;
use crate::sys::process::enter::{ExecOptions, SealedInit};
use crate::sys::process::first_process::{self, FirstProcess, Stage};

/// What systemd takes the container for (CONTAINER_INTERFACE of systemd).
pub(super) const NAME: &str = "lxc-libvirt";

/// The host's systemd, where every distribution with a merged `/usr` has it, and Debian before that.
pub(super) const SYSTEMD: &str = "/lib/systemd/systemd";

/// Clock ticks a second in what `/proc` tells programs: `USER_HZ` of every architecture that Rust has.
const TICKS: f64 = 100.0;

/// Most bytes that are read of a table of the kernel's, which are thousands of addresses.
const TABLE: u64 = 1 << 20;

/// Between two looks whether a sandbox has booted.
const LOOK: Duration = Duration::from_millis(20);

/// How long it may take to boot until a limit is changed.
const BOOT: Duration = Duration::from_secs(5);

pub(super) fn check(config: &SandboxConfig) -> Result<()> {
    for device in &config.devices {
        node(device)?;
    }
    if !config.kernel.is_any() {
        return Err(Error::refused(
            "a container has the kernel of the host; leave out '--kernver', '--kernpath' and '--kmodpath' ('[kernel]' in sandbox.toml), or make it a virtual machine with '-c qemu:///system'",
        ));
    }
    lxc::check(&Domain::of_service(config))
}

pub(super) fn build(
    config: &SandboxConfig,
    contents: Contents,
    facts: &HostFacts,
    site: Site<'_>,
    hypervisor: &dyn Hypervisor,
) -> Result<String> {
    let mut domain = Domain::of_service(config);
    let image = config.image.is_some();
    if image {
        // libvirt would start it again with a device that is another file's by then.
        domain.on_reboot = OnReboot::Destroy;
        domain.disks.extend(site.device.map(BlockDevice::of_host));
    }
    lxc::check(&domain)?;
    let label = super::labelled(config, Kind::Container, &site, hypervisor)?;
    let mut assembly = Assembly::of_service(config, facts, site.stage)?;
    assembly.mounts.extend(guest::own_databases(Path::new("/")));
    let idmap = ids(config, &assembly.filesystems, site.record)?;
    let confined = match idmap {
        Some(_) => Confined::OwnRoot,
        None => Confined::HostsRoot,
    };
    let confinement = Confinement::of_service(config);
    let granted = match idmap {
        // What is granted there is of no use on the host.
        Some(_) => BTreeSet::new(),
        None => confinement.capabilities.granted(),
    };
    let payload = Payload::Init {
        command: vec![SYSTEMD.to_owned(), format!("--unit={}", contents.target)],
        environment: [
            ("container".to_owned(), NAME.to_owned()),
            ("container_uuid".to_owned(), config.uuid.to_string()),
        ]
        .into_iter()
        .chain(guest::credentials_variable(&contents.credentials))
        .collect(),
    };
    let guest = GuestConfig {
        debug: guest::is_debugged(),
        idmap,
        confinement: confinement::given(&confinement, confined, &facts.arch)?,
        staged: image.then(staged).into_iter().collect(),
        mounts: assembly.mounts,
        user_mounts: assembly.user_mounts,
        devices: (config.devices.iter()).map(node).collect::<Result<_>>()?,
        files: contents.files,
        credentials: contents.credentials,
        static_units: Some(StaticUnits {
            keep: contents.keep_units,
        }),
        max_pids: Some(Keeper::Containers.pids(&config.resources)),
        tmpfs_size: Some(config.resources.tmpfs_size()),
        network: super::nics(config, hypervisor)?,
        ..GuestConfig::new(
            config.name.as_str(),
            &config.hostname,
            Platform::Container,
            payload,
        )
    };
    guest::stage(site.stage, &guest::find_init()?, &guest)?;
    if let Some(files) = &label.files {
        selinux::label(site.stage, files)?;
    }
    domain.security = label.domain;
    let view = LxcDomain::new(&domain, facts, assembly.filesystems).granting(&granted);
    Template::LxcDomain.render(&view, Some(site.templates))
}

/// The ids of the host that stand for those of a sandbox whose configuration is in the directory `record`.
fn ids(config: &SandboxConfig, filesystems: &[Filesystem], record: &Path) -> Result<Option<IdMap>> {
    let registry = registry(record);
    let claim = |wanted| registry.claim(record, config.uuid, wanted);
    ids::decide(
        config.idmap,
        filesystems,
        &guest::find_init()?,
        record,
        claim,
    )
}

/// Who may use a device on the host may do so inside.
fn node(device: &Device) -> Result<guest_init::config::Device> {
    let path = device.path();
    let refused = |reason: &str| {
        Error::refused(format!(
            "the device '{device}' {reason}; load its driver, or leave it out ('--device', or 'devices' in sandbox.toml)"
        ))
    };
    let metadata = fs::metadata(path).map_err(|error| refused(&format!("of the host: {error}")))?;
    if !metadata.file_type().is_char_device() {
        return Err(refused("of the host is no character device"));
    }
    Ok(guest_init::config::Device {
        path: path.to_owned(),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// The image of the tree, mounted where else a directory of the host is placed.
fn staged() -> Staged {
    let node = Path::new("/dev").join(disk_name("sd", 0));
    Staged::Image {
        device: guest_init::config::BlockDevice::Node(node),
        partition: None,
        path: guest::PRIVATE.into(),
        read_only: false,
    }
}

/// The staging root is ours.
pub(super) fn sharing(config: &SandboxConfig, facts: &HostFacts) -> Result<Vec<Shared>> {
    let stage = Path::new("/");
    let assembly = Assembly::of_service(config, facts, stage)?;
    let shared = |filesystem: Filesystem| Shared {
        source: filesystem.source,
        read_only: filesystem.read_only,
        how: "bind mount, owners as on the host",
    };
    let own = assembly.filesystems.into_iter().skip(1).map(shared);
    let image = config.image_file().map(|source| Shared {
        source,
        read_only: false,
        how: "loop device, owners in its filesystem; mounted in the sandbox alone",
    });
    Ok(own.chain(image).collect())
}

pub(super) fn owners(config: &SandboxConfig, facts: &HostFacts, record: &Path) -> Result<Owners> {
    let assembly = Assembly::of_service(config, facts, Path::new("/"))?;
    let registry = registry(record);
    let preview = |wanted| registry.preview(record, config.uuid, wanted);
    // The first is the staging root.
    let filesystems = assembly.filesystems.get(1..).unwrap_or_default();
    let ids = ids::decide(
        config.idmap,
        filesystems,
        &guest::find_init()?,
        record,
        preview,
    )?;
    Ok(match ids {
        Some(_) => Owners::Idmap,
        None => Owners::Passthrough,
    })
}

/// The ids of the sandboxes beside the one whose configuration is in the directory `record`.
fn registry(record: &Path) -> Registry {
    let all = record.parent().unwrap_or(Path::new(guest::SERVICES));
    Registry::of(&[all, Path::new(guest::RUNTIME)])
}

pub(super) fn limit(resources: &Resources, key: &str) -> Option<Limit> {
    match key {
        "memory" => {
            let memory = resources.memory.unwrap_or(DEFAULT_CONTAINER_MEMORY);
            Some(Limit::Memory(memory.kibi()))
        }
        "cpus" | "cpu-quota" => Some(Limit::CpuQuota {
            quota: resources.cpu_percent().map(quota_us),
            period: CPU_PERIOD_US,
        }),
        _ => None,
    }
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Container {
    name: SandboxName,
    /// The process that keeps it, the parent of its first.
    controller: u32,
    /// Staging root of the container, with the guest config from its start and what it hands over.
    stage: PathBuf,
    entrance: OnceCell<SealedInit>,
}

impl Container {
    /// The one that process `controller` keeps, with the staging root `stage`.
    pub(super) fn new(name: &SandboxName, controller: u32, stage: &Path) -> Self {
        Self {
            name: name.clone(),
            controller,
            stage: stage.to_owned(),
            entrance: OnceCell::new(),
        }
    }

    /// Returns the container's first process once it has booted; waits for that no longer than `limit`.
    fn first_within(&self, limit: Duration) -> Result<FirstProcess> {
        let begin = Instant::now();
        loop {
            match first_process::find(self.controller, &self.stage)? {
                Stage::Runs(first) => return Ok(first),
                Stage::Ended => {
                    return Err(Error::not_running(format!(
                        "the sandbox '{}' has ended meanwhile",
                        self.name
                    )));
                }
                Stage::Boots if begin.elapsed() >= limit => {
                    return Err(Error::not_ready(format!(
                        "the sandbox '{}' is still booting; try again in a moment",
                        self.name
                    )));
                }
                Stage::Boots => sleep(LOOK),
            }
        }
    }

    fn first(&self) -> Result<FirstProcess> {
        self.first_within(Duration::ZERO)
    }

    fn entrance(&self) -> Result<&SealedInit> {
        if let Some(entrance) = self.entrance.get() {
            return Ok(entrance);
        }
        let entrance = SealedInit::new(&guest::find_init()?, self.stage.join(guest::CONFIG))?;
        Ok(self.entrance.get_or_init(|| entrance))
    }
}

impl Inside for Container {
    fn is_alive(&self) -> bool {
        super::is_alive(self.controller)
    }

    fn answers(&self) -> bool {
        self.first().is_ok()
    }

    fn share_controllers(&self) {
        // It may just have ended, which others notice; without it only limits that units have for themselves are missed.
        if let Err(error) = cgroup::delegate_controllers(self.controller) {
            log::debug!("giving cgroup controllers to '{}': {error}", self.name);
        }
    }

    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>> {
        let begin = Instant::now();
        let first = self.first_within(limit)?;
        let left = limit.saturating_sub(begin.elapsed());
        (self.entrance()?.capture(&first, command, left))
            .map_err(Error::io("running", super::program(command)))
    }

    fn execute(&self, how: &ExecOptions, command: &[String]) -> Result<u8> {
        let first = self.first_within(ANSWER)?;
        let error = self.entrance()?.exec(&first, how, command);
        Err(Error::step("running guest-init")(error))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let Ok(FirstProcess { process, .. }) = self.first() else {
            return vec![];
        };
        let (ipv4, ipv6) = ("net/fib_trie", "net/if_inet6");
        addresses::of_tables(&table(&process, ipv4), &table(&process, ipv6))
    }

    fn reach(&self) -> Result<Reach> {
        let failed = || Error::step("entering the network of the sandbox");
        let namespace = self.first()?.process.file("ns/net").map_err(failed())?;
        let own = fs::metadata("/proc/self/ns/net").map_err(failed())?;
        let its = namespace.metadata().map_err(failed())?;
        if (its.dev(), its.ino()) == (own.dev(), own.ino()) {
            return Err(Error::refused("the network of the sandbox is the host's"));
        }
        Ok(Reach::Network(namespace))
    }

    fn activity(&self) -> Result<Activity> {
        let first = self.first()?;
        let (net_received, net_sent) = super::parse_net_dev(&table(&first.process, "net/dev"));
        let since_boot = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let since_boot = super::parse_uptime(&since_boot).unwrap_or_default();
        let processes = cgroup::pids_group(self.controller, &self.name)
            .and_then(|group| fs::read_to_string(group.join("pids.current")).ok())
            .and_then(|text| text.trim().parse().ok());
        Ok(Activity {
            net_received,
            net_sent,
            processes,
            uptime: (since_boot - first.identity.started as f64 / TICKS).max(0.0),
        })
    }

    /// The number of processes is no limit of libvirt's.
    fn limit_processes(&self, most: u64) -> Result<()> {
        // While it boots the group need not be there yet.
        self.first_within(BOOT)?;
        let group = cgroup::pids_group(self.controller, &self.name)
            .ok_or_else(|| Error::unsupported("no group of the sandbox counts processes"))?;
        let file = group.join("pids.max");
        fs::write(&file, most.to_string()).map_err(Error::io("writing", &file))
    }

    fn adapt(&self, limit: &Limit) -> Result<()> {
        let Limit::Memory(kib) = limit else {
            return Ok(());
        };
        cgroup::limit_sockets(self.controller, kib.saturating_mul(1024))
            .map_err(Error::step("limiting the memory of sockets"))
    }

    /// Its kernel is the host's.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn wake(&self) -> Result<()> {
        Ok(())
    }
}

/// What the kernel says of a sandbox below `/proc/PID`; nothing where it has just ended.
fn table(first: &ProcDir, name: &str) -> String {
    first.file(name).map(whole_lines).unwrap_or_default()
}

/// Who is root inside makes the tables of its network as long as it likes: no more is read of one than [`TABLE`].
fn whole_lines(source: impl Read) -> String {
    let mut text = Vec::new();
    // What was read before a failure is good.
    let _ = source.take(TABLE).read_to_end(&mut text);
    if text.len() as u64 == TABLE {
        let end = text.iter().rposition(|byte| *byte == b'\n');
        text.truncate(end.map_or(0, |at| at + 1));
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Keeper;

    #[test]
    fn a_table_without_end_is_read_in_part() {
        let lines = whole_lines(&b"eth0: 1\nlo: 2\n".repeat(1 << 20)[..]);
        assert!(
            lines.len() as u64 <= TABLE && lines.ends_with('\n'),
            "{}",
            lines.len()
        );
        assert_eq!(whole_lines(std::io::repeat(b'x')), "");
        assert_eq!(whole_lines(&b"one\ntwo"[..]), "one\ntwo");
    }

    #[test]
    fn every_limit_has_a_value_when_it_is_taken_away() {
        let usual = Resources::default();
        let limit = |resources: &Resources, key: &str| Keeper::Containers.limit(resources, key);
        assert_eq!(limit(&usual, "memory"), Some(Limit::Memory(2 << 20)));
        assert_eq!(limit(&usual, "cpu-shares"), Some(Limit::CpuShares(1024)));
        let quota = |resources: &Resources| match limit(resources, "cpus") {
            Some(Limit::CpuQuota { quota, .. }) => quota,
            _ => panic!("no quota"),
        };
        assert_eq!(quota(&usual), None);
        let two = Resources {
            cpus: Some(2),
            ..usual
        };
        assert_eq!(quota(&two), Some(200_000));
        assert_eq!(limit(&two, "io-weight"), None);
    }
}
