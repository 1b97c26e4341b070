//! Sandboxes in containers: libvirt places the host's directories in the staging root.

mod guest;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use guest_init::config::{
    self as config, BlockDevice, File, GuestConfig, IdMap, Payload, Platform, Staged,
};
use guest_init::seccomp::usual::Confined;

pub(super) use self::guest::Container;
use crate::config::resources::DEFAULT_CONTAINER_MEMORY;
use crate::config::{Device, Resources, SandboxConfig};
use crate::domain::lxc::{self, LxcDomain};
use crate::domain::template::Template;
use crate::domain::tune::{CPU_PERIOD_US, quota_us};
use crate::domain::{Domain, Filesystem, OnReboot, disk_name};
use crate::driver::build::{Boot, BuildContext, Spec};
use crate::driver::service::registry;
use crate::driver::{Owners, SharedDirectory};
use crate::error::{Error, Result};
use crate::guest::ids;
use crate::guest::layout::{Layout, ROOT, Share};
use crate::guest::{confinement, find_init};
use crate::host::{self, HostFacts};
use crate::hypervisor::Limit;

/// Name of the container manager that systemd inside goes by (systemd's CONTAINER_INTERFACE).
pub(super) const NAME: &str = "lxc-libvirt";

/// Directories of a root that show the kernel and the host's services; a sandbox has its own.
const NOT_SHARED: [&str; 4] = ["proc", "sys", "dev", "run"];

/// Refuses a configuration of a service that no container can have.
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

/// Builds the documents of a container.
pub(super) fn build(spec: &Spec<'_>, context: &BuildContext<'_>) -> Result<Boot> {
    let layout = &spec.layout;
    let mut domain = spec.domain.clone();
    domain.disks.extend(context.devices.iter().cloned());
    if !layout.images.is_empty() {
        // libvirt would start it again with a device that is another file's by then.
        domain.on_reboot = OnReboot::Destroy;
    }
    lxc::check(&domain)?;
    let mut filesystems = vec![Filesystem {
        source: context.stage.to_owned(),
        target: "/".into(),
        read_only: false,
    }];
    filesystems.extend(placed(layout, context.facts));
    let idmap = choose_ids(spec, context, &filesystems)?;
    let is_root = match &spec.payload {
        Payload::Init { .. } => true,
        Payload::Command(command) => command.identity.privileged,
    };
    let confined = match (is_root, idmap) {
        (false, _) => Confined::Unprivileged,
        (true, Some(_)) => Confined::OwnRoot,
        (true, None) => Confined::HostsRoot,
    };
    let granted = match confined {
        Confined::HostsRoot => spec.confinement.capabilities.granted(),
        // A capability in a user namespace is of no use on the host.
        Confined::OwnRoot | Confined::Unprivileged => BTreeSet::new(),
    };
    let resources = &domain.resources;
    let mut guest = GuestConfig {
        idmap,
        confinement: confinement::guest_confinement(
            spec.confinement,
            confined,
            context.facts.arch,
        )?,
        staged: images(layout),
        disks: disks(layout),
        devices: domain.devices.iter().map(node).collect::<Result<_>>()?,
        // The first console is the log's.
        shell: spec.shell("/dev/tty2"),
        max_pids: Some(resources.container_pids(host::pid_max())),
        tmpfs_size: Some(resources.tmpfs_size()),
        environment: variables(&domain).to_vec(),
        ..spec.guest_config(Platform::Container)
    };
    if let Payload::Init { .. } = guest.payload {
        guest.files.push(variables_of_units(&guest.environment));
    }
    let view = LxcDomain::new(&domain, context.facts, filesystems).granting(&granted);
    Ok(Boot {
        xml: Template::LxcDomain.render(&view, Some(context.templates))?,
        guest,
        machine: None,
    })
}

/// Returns the variables by which a program knows the domain that it runs in; libvirt gives them to the first process alone.
fn variables(domain: &Domain) -> [(String, String); 2] {
    [
        ("LIBVIRT_LXC_NAME".to_owned(), domain.name.to_string()),
        ("LIBVIRT_LXC_UUID".to_owned(), domain.uuid.to_string()),
    ]
}

/// Returns a drop-in that gives units `variables`: systemd hands down none of its own (systemd.exec(5)).
fn variables_of_units(variables: &[(String, String)]) -> File {
    let words: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    File {
        path: "/run/systemd/system.conf.d/10-libvirt.conf".into(),
        mode: 0o644,
        content: format!("[Manager]\nDefaultEnvironment={}\n", words.join(" ")),
    }
}

/// Chooses the host's ids that stand for those of a container.
fn choose_ids(
    spec: &Spec<'_>,
    context: &BuildContext<'_>,
    filesystems: &[Filesystem],
) -> Result<Option<IdMap>> {
    let (record, uuid, registry) = (context.record, spec.domain.uuid, context.registry);
    let owned = with_nearest(filesystems, &spec.layout, record);
    ids::decide(
        spec.confinement.idmap,
        &owned,
        context.init,
        record,
        |wanted| match context.claims_ids {
            true => registry.claim(record, uuid, wanted),
            false => registry.preview(record, uuid, wanted),
        },
    )
}

/// Returns the filesystems that ids are mapped for. Fresh directories are made later, on the filesystem of the nearest directory.
fn with_nearest(filesystems: &[Filesystem], layout: &Layout, record: &Path) -> Vec<Filesystem> {
    let nearest = record.ancestors().find(|path| path.exists());
    let nearest = nearest.unwrap_or(record);
    let mut owned = filesystems.to_vec();
    for filesystem in &mut owned {
        if layout.temporary.contains(&filesystem.source) {
            filesystem.source = nearest.to_owned();
        }
    }
    owned
}

/// Returns what libvirt places in the staging root.
fn placed(layout: &Layout, facts: &HostFacts) -> Vec<Filesystem> {
    let shares = layout.shares.iter();
    shares
        .flat_map(|share| with_submounts(share, facts))
        .collect()
}

/// Returns a share with every mount below it: libvirt does not bind recursively.
fn with_submounts(share: &Share, facts: &HostFacts) -> Vec<Filesystem> {
    let is_root = share.staged == Path::new(ROOT);
    let is_shared =
        |inside: &Path| !is_root || !NOT_SHARED.iter().any(|top| inside.starts_with(top));
    facts
        .with_submounts(&share.source)
        .filter_map(|mount_point| {
            let inside = mount_point.strip_prefix(&share.source).ok()?;
            // One that another mount covers, or that is not ours to see, is left out.
            let is_there = inside.as_os_str().is_empty() || mount_point.exists();
            (is_there && is_shared(inside)).then(|| Filesystem {
                source: mount_point.to_owned(),
                // Not joined to nothing: the slash at the end would make a file a directory.
                target: match inside.as_os_str().is_empty() {
                    true => share.staged.clone(),
                    false => share.staged.join(inside),
                },
                read_only: share.read_only,
            })
        })
        .collect()
}

/// Returns the node of block device `index`: libvirt calls those of the images, then of the disks `sda`, `sdb`…
fn block_device(index: usize) -> BlockDevice {
    BlockDevice::Node(Path::new("/dev").join(disk_name("sd", index)))
}

fn images(layout: &Layout) -> Vec<Staged> {
    let images = layout.images.iter().enumerate();
    images
        .map(|(index, image)| Staged::Image {
            device: block_device(index),
            // The device is the partition already.
            partition: None,
            path: image.staged.clone(),
            read_only: image.read_only,
        })
        .collect()
}

fn disks(layout: &Layout) -> Vec<config::Disk> {
    let disks = layout.disks.iter().enumerate();
    disks
        .map(|(index, disk)| config::Disk {
            tag: disk.tag().as_str().to_owned(),
            device: block_device(layout.images.len() + index),
        })
        .collect()
}

/// Returns a device of the host as the guest has it: the host's permissions hold inside as well.
fn node(device: &Device) -> Result<config::Device> {
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
    Ok(config::Device {
        path: path.to_owned(),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Returns the directories of the host that a service has.
pub(super) fn shared_directories(layout: &Layout, facts: &HostFacts) -> Vec<SharedDirectory> {
    let directories = placed(layout, facts).into_iter();
    let directories = directories.map(|filesystem| SharedDirectory {
        source: filesystem.source,
        read_only: filesystem.read_only,
        how: "bind mount, owners as on the host",
    });
    let images = layout.images.iter().map(|image| SharedDirectory {
        source: image.source.clone(),
        read_only: image.read_only,
        how: "loop device, owners in its filesystem; mounted in the sandbox alone",
    });
    directories.chain(images).collect()
}

/// Returns how the files of a service whose directory is `record` keep their owners.
pub(super) fn owners(
    config: &SandboxConfig,
    layout: &Layout,
    facts: &HostFacts,
    record: &Path,
) -> Result<Owners> {
    let registry = registry(record);
    let preview = |wanted| registry.preview(record, config.uuid, wanted);
    let (filesystems, init) = (placed(layout, facts), find_init()?);
    Ok(
        match ids::decide(config.idmap, &filesystems, &init, record, preview)? {
            Some(_) => Owners::Idmap,
            None => Owners::Passthrough,
        },
    )
}

/// Returns the limit `key` as libvirt changes it while a container runs.
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

#[cfg(test)]
mod tests;
