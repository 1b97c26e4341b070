//! A sandbox as a virtual machine: the host's directories are devices of it, which the guest mounts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, Platform, Staged, Stdio};

use crate::config::network::Source;
use crate::config::{Network, SandboxName};
use crate::domain::qemu::{self, Channel, Console, Machine, QemuDomain, Transport};
use crate::domain::template::{self, Template};
use crate::domain::{BlockDevice, BlockKind, Domain};
use crate::driver::ability::{Abilities, OfFile, for_guest, usable_emulation};
use crate::error::{Error, Result};
use crate::guest::kernel::{self, Feature, Kernel};
use crate::host::HostFacts;
use crate::label::selinux;
use crate::run::contract::{self, Platforms};
use crate::run::disks;
use crate::run::layout::{Granularity, Image, Kind, Layout};
use crate::run::{Account, Copied, Driver, Places, Plan, Reach, Request};

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
    request.confinement.check_machine()?;
    let account = Account::find(&request.who)?;
    let layout = Layout::new(request, state, Granularity::Directories)?;
    let kernel = Kernel::find(Path::new("/"), &request.kernel)?;
    let abilities = Abilities::of_host(&kernel, driver.authority())?;

    let mut shares = Vec::new();
    let mut staged = Vec::new();
    let mut files = Vec::new();
    for (index, share) in layout.shares.iter().enumerate() {
        let own = share.source.clone();
        let (source, transport) = match share.kind {
            Kind::Directory => (own, abilities.transport(&share.source, share.read_only)?),
            Kind::File => match abilities.of_file(&share.source, share.read_only)? {
                OfFile::Itself(transport) => (own, transport),
                OfFile::Copy(transport) => {
                    let directory = state.join("copied").join(index.to_string());
                    files.push(Copied {
                        source: own,
                        directory: directory.clone(),
                    });
                    (directory, transport)
                }
            },
        };
        let tag = format!("share{index}");
        staged.push(Staged::Share {
            transport: for_guest(&transport),
            tag: tag.clone(),
            path: share.staged.clone(),
            read_only: share.read_only,
        });
        shares.push(qemu::Share {
            tag,
            source,
            transport,
        });
    }
    for (index, image) in layout.images.iter().enumerate() {
        let serial = format!("image{index}");
        disks::check_image(image)?;
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
        let kind = disks::kind(disk)?;
        disks::check_disk(disk)?;
        domain.disks.push(BlockDevice {
            source: disk.source().to_owned(),
            kind,
            format: disk.format(),
            backing: disk.has_backing(),
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
    let copies = state.join(kernel::COPIES);
    let copied = kernel::Boot::below(&copies);
    let sockets = state.join("sockets");
    let (channel, console) = (sockets.join("channel"), sockets.join("console"));
    let serial = request.debug.then(|| sockets.join("serial"));
    let emulation = request.emulation.unwrap_or_else(usable_emulation);
    let machine = Machine {
        emulation,
        kernel: copied.kernel,
        initrd: copied.initrd,
        command_line: kernel::command_line(request.debug, None),
        channels: vec![Channel {
            name: guest_init::channel::wire::PORT.to_owned(),
            socket: channel.clone(),
        }],
        console: Console::Socket(console.clone()),
        serial: serial.clone(),
        shares,
        ends_itself: driver == Driver::QemuEmbedded,
        most_cpus: 1,
        has_balloon: false,
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
        shell: request.shell.then(|| PathBuf::from("/dev/hvc1")),
        max_pids: None,
        tmpfs_size: None,
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
            directory: sockets,
        },
        copies: files,
        boot: Some(BootFiles { boot, copies }),
        emulation: Some(emulation),
        files: None,
        devices: vec![],
    })
}

/// Kernel and initramfs that a virtual machine boots from: the files in the cache, and where its own copies go.
#[derive(Debug)]
pub(super) struct BootFiles {
    /// The files in the cache.
    boot: kernel::Boot,
    /// The directory of the machine's own copies.
    copies: PathBuf,
}

impl BootFiles {
    /// Makes the copies, for `reader`, the user that QEMU runs as where that is not ours.
    pub(super) fn copy(&self, reader: Option<(u32, u32)>) -> Result<()> {
        self.boot.copy_to(&self.copies, reader, &[]).map(drop)
    }

    /// Labels the copies.
    pub(super) fn label(&self) {
        selinux::share_with_machines(&self.copies);
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
        backing: image.backing,
        read_only: image.read_only,
        serial: serial.to_owned(),
    }
}
