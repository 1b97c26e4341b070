//! A sandbox as a virtual machine: the host's directories are devices of it, which the guest mounts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, Platform, Staged, Stdio};

use crate::config::network::Source;
use crate::config::{Network, SandboxName};
use crate::domain::qemu::{self, Authority, Emulation, Machine, QemuDomain, Transport};
use crate::domain::template::{self, Template};
use crate::domain::{BlockDevice, BlockKind, Domain};
use crate::error::{Error, Result};
use crate::guest::kernel::{self, Feature, Kernel};
use crate::host::HostFacts;
use crate::hypervisor::libvirt;
use crate::run::contract::{self, Platforms};
use crate::run::disks;
use crate::run::layout::{Granularity, Image, Layout, Share};
use crate::run::{Account, Driver, Places, Plan, Reach, Request};

/// First version of libvirt that starts a virtiofsd for an ordinary user.
const VIRTIOFS_FOR_USERS: u32 = 10;

/// Where distributions have it.
const VIRTIOFSD: [&str; 4] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu-virtiofsd",
];

/// What a virtual machine of this host can be.
#[derive(Debug)]
struct Abilities<'a> {
    kernel: &'a Kernel,
    authority: Authority,
    virtiofsd: Option<PathBuf>,
    libvirt_version: u32,
}

/// The plan of a virtual machine of `driver`.
pub fn plan(
    request: &Request,
    name: &SandboxName,
    driver: Driver,
    mut domain: Domain,
    facts: &HostFacts,
    stdio: Stdio,
    (state, places): (&Path, &Places),
) -> Result<Plan> {
    let account = Account::find(&request.who)?;
    let layout = Layout::new(request, state, Granularity::Directories)?;
    let kernel = Kernel::find(Path::new("/"), &request.kernel)?;
    let abilities = Abilities {
        kernel: &kernel,
        authority: driver.authority(),
        virtiofsd: VIRTIOFSD
            .iter()
            .map(PathBuf::from)
            .find(|path| path.is_file()),
        libvirt_version: libvirt::library_version()?,
    };

    let mut shares = Vec::new();
    let mut staged = Vec::new();
    for (index, share) in layout.shares.iter().enumerate() {
        let transport = abilities.transport(share)?;
        let tag = format!("share{index}");
        staged.push(Staged::Share {
            transport: match transport {
                Transport::Plan9 { .. } => guest::Transport::Plan9,
                Transport::Virtiofs { .. } => guest::Transport::Virtiofs,
            },
            tag: tag.clone(),
            path: share.staged.clone(),
            read_only: share.read_only,
        });
        shares.push(qemu::Share {
            tag,
            source: share.source.clone(),
            // No virtiofsd that libvirt 9 starts refuses to write; the guest's kernel does.
            read_only: share.read_only && matches!(transport, Transport::Plan9 { .. }),
            transport,
        });
    }
    for (index, image) in layout.images.iter().enumerate() {
        let serial = format!("image{index}");
        domain.disks.push(image_device(image, &serial));
        staged.push(Staged::Image {
            device: guest::BlockDevice::Serial(serial),
            partition: image.partition,
            path: image.staged.clone(),
            read_only: image.read_only,
        });
    }
    let mut disks = Vec::new();
    for (index, disk) in request.disks.iter().enumerate() {
        let serial = format!("disk{index}");
        domain.disks.push(BlockDevice {
            source: disk.source().to_owned(),
            kind: disks::kind(disk)?,
            format: disk.format(),
            read_only: disk.is_read_only(),
            serial: serial.clone(),
        });
        disks.push(guest::Disk {
            tag: disk.tag().as_str().to_owned(),
            device: guest::BlockDevice::Serial(serial),
        });
    }

    let features = features(request, &shares, &layout, &domain)?;
    let boot = kernel::prepare(
        &places.cache,
        &kernel,
        &features,
        &crate::guest::find_init()?,
    )?;
    let (channel, console) = (state.join("channel"), state.join("console"));
    let serial = request.debug.then(|| state.join("serial"));
    let emulation = request.emulation.unwrap_or_else(usable_emulation);
    let machine = Machine {
        emulation,
        kernel: boot.kernel.clone(),
        initrd: boot.initrd.clone(),
        command_line: kernel::command_line(request.debug, None),
        channel: channel.clone(),
        console: console.clone(),
        serial: serial.clone(),
        shares,
        ends_itself: driver == Driver::QemuEmbedded,
    };
    qemu::check(&domain, &machine, driver.authority())?;
    if driver == Driver::QemuEmbedded {
        check_embedded(&domain)?;
    }
    let temporary = layout.temporary.clone();
    let driver = Platforms {
        platform: Platform::Machine,
        idmap: None,
        // The kernel is its own.
        confinement: guest_init::config::Confinement::default(),
        container: "",
        staged,
        disks,
        // Sockets of the host are files without a meaning in another kernel.
        masked: vec![],
        shell: request.shell.then(|| PathBuf::from("/dev/hvc1")),
        max_pids: None,
    };
    let guest = contract::config(request, name, &account, stdio, layout, driver);
    let view = QemuDomain::new(&domain, &machine, facts);
    Ok(Plan {
        xml: Template::QemuDomain.render(&view, Some(Path::new(template::OVERRIDES)))?,
        uuid: domain.uuid,
        guest,
        temporary,
        owner: account.identity,
        reach: Reach::Sockets {
            channel,
            consoles: std::iter::once(console).chain(serial).collect(),
        },
        emulation: Some(emulation),
        devices: vec![],
    })
}

impl Abilities<'_> {
    /// How a directory gets into the guest.
    ///
    /// Over 9p QEMU itself reads the files, as whoever it runs as, and refuses to write where it is told to. A virtiofsd
    /// of root's keeps owners as they are.
    fn transport(&self, share: &Share) -> Result<Transport> {
        let plan9 = self.plan9()?;
        let virtiofs = self.virtiofs()?;
        let prefers_plan9 = share.read_only || self.authority == Authority::User;
        let (first, second) = match prefers_plan9 {
            true => (plan9, virtiofs),
            false => (virtiofs, plan9),
        };
        match (first, second) {
            (Ok(transport), _) | (Err(_), Ok(transport)) => Ok(transport),
            (Err(one), Err(other)) => Err(Error::refused(format!(
                "sharing '{}' with a virtual machine: {one}, and {other}",
                share.source.display()
            ))),
        }
    }

    fn plan9(&self) -> Result<std::result::Result<Transport, String>> {
        let release = &self.kernel.release;
        Ok(
            if self.kernel.has("9p")? && self.kernel.has("9pnet_virtio")? {
                // Whoever QEMU runs as, it cannot give files to others, and need not.
                Ok(Transport::Plan9 { squash: true })
            } else {
                Err(format!(
                    "the kernel {release} has no 9p (choose one that has, such as linux-image-amd64, with --kernver)"
                ))
            },
        )
    }

    fn virtiofs(&self) -> Result<std::result::Result<Transport, String>> {
        let release = &self.kernel.release;
        if !self.kernel.has("virtiofs")? {
            return Ok(Err(format!("the kernel {release} has no virtiofs")));
        }
        if self.authority == Authority::User && self.libvirt_version < VIRTIOFS_FOR_USERS {
            return Ok(Err(format!(
                "libvirt {} shares with virtiofs for root only (from {VIRTIOFS_FOR_USERS} on, for users)",
                self.libvirt_version
            )));
        }
        Ok(match &self.virtiofsd {
            Some(binary) => Ok(Transport::Virtiofs {
                binary: binary.clone(),
                // A root that is the kernel's first one cannot be left by pivot_root(2), which is the other way.
                chroot: true,
            }),
            None => Err(format!(
                "there is no virtiofsd in any of {}",
                VIRTIOFSD.join(", ")
            )),
        })
    }
}

/// libvirt's networks are another driver's, of a daemon.
fn check_embedded(domain: &Domain) -> Result<()> {
    let on_network = |nic: &&Network| matches!(nic.source, Some(Source::Network(_)));
    match domain.networks.iter().find(on_network) {
        None => Ok(()),
        Some(nic) => Err(Error::refused(format!(
            "the NIC '{nic}': a driver without a daemon has no virtual networks; use 'user' or bridge=, or qemu:///system"
        ))),
    }
}

/// What the guest's kernel must be able to do.
fn features(
    request: &Request,
    shares: &[qemu::Share],
    layout: &Layout,
    domain: &Domain,
) -> Result<BTreeSet<Feature>> {
    let mut features = BTreeSet::new();
    for share in shares {
        features.insert(match share.transport {
            Transport::Plan9 { .. } => Feature::Plan9,
            Transport::Virtiofs { .. } => Feature::Virtiofs,
        });
    }
    // Mount points that a root lacks are made in an overlay.
    let changes_root = !request.mounts.is_empty()
        || !request.includes.is_empty()
        || !request.networks.is_empty()
        || request.root.is_some();
    if changes_root || request.volatile {
        features.insert(Feature::Overlay);
    }
    if !request.networks.is_empty() {
        features.insert(Feature::Network);
    }
    if !domain.disks.is_empty() {
        features.insert(Feature::Block);
    }
    for image in &layout.images {
        features.extend(disks::features(image)?);
    }
    Ok(features)
}

fn image_device(image: &Image, serial: &str) -> BlockDevice {
    BlockDevice {
        source: image.source.clone(),
        kind: BlockKind::File,
        format: image.format,
        read_only: image.read_only,
        serial: serial.to_owned(),
    }
}

/// KVM where the CPU has what it takes and the device can be opened; a software KVM cannot boot a stock kernel.
fn usable_emulation() -> Emulation {
    let device = fs::File::options().read(true).write(true).open("/dev/kvm");
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    match device.is_ok() && is_hardware(&cpu, std::env::consts::ARCH) {
        true => Emulation::Kvm,
        false => Emulation::Tcg,
    }
}

/// Whether `/proc/cpuinfo` shows a CPU that runs guests itself. Only x86 says so there.
fn is_hardware(cpuinfo: &str, arch: &str) -> bool {
    let has_flag = |line: &str| {
        line.starts_with("flags")
            && line
                .split_whitespace()
                .any(|flag| ["vmx", "svm"].contains(&flag))
    };
    !["x86", "x86_64"].contains(&arch) || cpuinfo.lines().any(has_flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_told_by_flags() {
        assert!(is_hardware("flags\t\t: fpu vmx de\n", "x86_64"));
        assert!(is_hardware("flags\t\t: fpu svm\n", "x86_64"));
        assert!(!is_hardware(
            "flags\t\t: fpu vmxnet\nmodel: vmx\n",
            "x86_64"
        ));
        assert!(is_hardware("", "aarch64"));
    }
}
