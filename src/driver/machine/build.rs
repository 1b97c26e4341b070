//! From the specification of a sandbox to the documents of a virtual machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use guest_init::config::{self as guest, File, GuestConfig, Payload, Platform, Staged};

use super::LOG;
use super::channel::{self, AGENT_PORTS};
use super::emulation::usable_emulation;
use super::limits::most_cpus;
use super::shares::Devices;
use super::transport::Transports;
use crate::config::Network;
use crate::config::network::Source;
use crate::domain::qemu::{self, Channel, Console, Emulation, QemuDomain, Transport};
use crate::domain::template::Template;
use crate::domain::{BlockDevice, BlockKind, Domain};
use crate::driver::build::{Boot, BuildContext, MachineFiles, Spec};
use crate::driver::{Qemu, disks};
use crate::error::{Error, Result};
use crate::guest::kernel::{self, Feature};
use crate::guest::layout::Layout;

/// Name of the directory of a command's sockets, in that of the sandbox.
const SOCKETS: &str = "sockets";

/// Name of a kernel that does not exist. libvirt's error shows it to whoever starts a machine that has secrets without us.
const WITHHELD: &str = "it-has-secrets-start-it-with-virt-sandbox-service";

/// Sockets of the machine of a command, which a client of ours attends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// The directory of all.
    pub directory: PathBuf,
    /// Socket of the channel.
    pub channel: PathBuf,
    /// Socket of the first console.
    pub console: PathBuf,
    /// Socket of the serial port, which the kernel's messages go to.
    pub serial: Option<PathBuf>,
}

impl Sockets {
    /// Returns the sockets of the sandbox whose directory is `stage`; with `debug` there is a serial port.
    #[must_use]
    pub fn below(stage: &Path, debug: bool) -> Self {
        let directory = stage.join(SOCKETS);
        Self {
            channel: directory.join("channel"),
            console: directory.join("console"),
            serial: debug.then(|| directory.join("serial")),
            directory,
        }
    }
}

/// The ends of a machine on the host.
struct Ports {
    channels: Vec<Channel>,
    console: Console,
    serial: Option<PathBuf>,
}

impl Ports {
    /// Returns the ports of a machine: a command has a client, who starts it, gives it its config and reads its console; a
    /// service lives by itself, and anybody may ask its agent.
    fn new(spec: &Spec<'_>, stage: &Path) -> Self {
        match spec.payload {
            Payload::Command(_) => {
                let sockets = Sockets::below(stage, spec.debug);
                Self {
                    channels: vec![Channel {
                        name: guest_init::channel::wire::PORT.to_owned(),
                        socket: sockets.channel,
                    }],
                    console: Console::Socket(sockets.console),
                    serial: sockets.serial,
                }
            }
            Payload::Init { .. } => Self {
                channels: channel::channels(&channel::directory(stage)),
                console: Console::Log(stage.join(LOG)),
                serial: None,
            },
        }
    }
}

/// Builds the documents of a virtual machine.
pub(in crate::driver) fn build(
    spec: &Spec<'_>,
    context: &BuildContext<'_>,
    daemon: Qemu,
    transports: &Transports<'_>,
) -> Result<Boot> {
    let kernel = transports.kernel;
    spec.confinement.check_machine()?;
    let layout = &spec.layout;
    let is_service = matches!(spec.payload, Payload::Init { .. });
    let emulation = spec.emulation.unwrap_or_else(usable_emulation);
    let Devices {
        shares,
        mut staged,
        copies,
    } = Devices::new(layout, transports, context.stage)?;
    let mut domain = spec.domain.clone();
    add_images(layout, &mut domain, &mut staged)?;
    let disks = add_disks(layout, &mut domain)?;

    // A command's machine ends soon, and its limits do not change.
    let has_balloon = is_service && kernel.has("virtio_balloon")?;
    let mut features = features(layout, &shares, &domain)?;
    features.extend(has_balloon.then_some(Feature::Balloon));
    features.extend(is_service.then_some(Feature::PowerButton));
    let boot = kernel::prepare(context.cache, kernel, &features, context.init)?;
    let mut own = kernel::Boot::below(&context.stage.join(kernel::BOOT_FILES));
    if !context.has_boot_files {
        own.kernel.set_file_name(WITHHELD);
    }
    let ports = Ports::new(spec, context.stage);
    let hardware = qemu::Machine {
        emulation,
        kernel: own.kernel,
        initrd: own.initrd,
        command_line: kernel::command_line(context.facts.arch, ports.serial.is_some()),
        channels: ports.channels,
        console: ports.console,
        serial: ports.serial,
        shares,
        ends_itself: daemon == Qemu::Embedded,
        most_cpus: match is_service {
            true => most_cpus(&domain.resources),
            false => 1,
        },
        has_balloon,
    };
    qemu::check(&domain, &hardware, daemon.authority())?;
    if daemon == Qemu::Embedded {
        check_embedded(&domain)?;
    }
    let mut guest = GuestConfig {
        // It is not confined: the kernel is its own.
        staged,
        disks,
        // Sockets of the host are files without a meaning in another kernel.
        shell: spec.shell("/dev/hvc1"),
        agent_ports: if is_service { AGENT_PORTS } else { 0 },
        max_pids: Some(domain.resources.machine_pids()),
        ..spec.guest_config(Platform::Machine)
    };
    if is_service && emulation == Emulation::Tcg {
        guest.files.push(longer_timeouts());
    }
    let view = QemuDomain::new(&domain, &hardware, context.facts);
    Ok(Boot {
        xml: Template::QemuDomain.render(&view, Some(context.templates))?,
        guest,
        machine: Some(MachineFiles {
            boot,
            copies,
            emulation,
        }),
    })
}

/// Makes the images of a layout disks of the machine, which its guest mounts.
fn add_images(layout: &Layout, domain: &mut Domain, staged: &mut Vec<Staged>) -> Result<()> {
    for image in &layout.images {
        if image.filesystem.is_none() {
            disks::check_image(image)?;
        }
        domain.disks.push(BlockDevice {
            source: image.source.clone(),
            kind: BlockKind::File,
            format: image.format,
            backing: image.backing,
            read_only: image.read_only,
            serial: image.name.clone(),
        });
        staged.push(Staged::Image {
            device: guest::BlockDevice::Serial(image.name.clone()),
            partition: image.partition,
            path: image.staged.clone(),
            read_only: image.read_only,
        });
    }
    Ok(())
}

/// Gives the machine the disks of a layout, and returns them as its guest finds them.
fn add_disks(layout: &Layout, domain: &mut Domain) -> Result<Vec<guest::Disk>> {
    let mut found = Vec::new();
    for (index, disk) in layout.disks.iter().enumerate() {
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
        found.push(guest::Disk {
            tag: disk.tag().as_str().to_owned(),
            device: guest::BlockDevice::Serial(serial),
        });
    }
    Ok(found)
}

/// Returns the features that the guest's kernel needs.
fn features(
    layout: &Layout,
    shares: &[qemu::ShareDevice],
    domain: &Domain,
) -> Result<BTreeSet<Feature>> {
    let mut features: BTreeSet<Feature> = shares
        .iter()
        .map(|share| match share.transport {
            Transport::Plan9 { .. } => Feature::Plan9,
            Transport::Virtiofs { .. } => Feature::Virtiofs,
        })
        .collect();
    features.extend(layout.needs_overlay.then_some(Feature::Overlay));
    features.extend((!domain.networks.is_empty()).then_some(Feature::Network));
    features.extend((!domain.disks.is_empty()).then_some(Feature::Block));
    for image in &layout.images {
        features.extend(disks::features(image)?);
    }
    Ok(features)
}

/// Refuses libvirt's networks for a driver without a daemon: they are another driver's, of a daemon.
fn check_embedded(domain: &Domain) -> Result<()> {
    let on_network = |nic: &&Network| matches!(nic.source, Some(Source::Network(_)));
    match domain.networks.iter().find(on_network) {
        None => Ok(()),
        Some(nic) => Err(Error::refused(format!(
            "the NIC '{nic}': a driver without a daemon has no virtual networks; use 'user' or bridge=, or qemu:///system"
        ))),
    }
}

/// Returns a drop-in of systemd for an emulated machine, which takes several times as long: units that set no time-out get more
/// than systemd gives them.
fn longer_timeouts() -> File {
    File {
        path: "/run/systemd/system.conf.d/10-emulated.conf".into(),
        mode: 0o644,
        content: "[Manager]\nDefaultTimeoutStartSec=300s\nDefaultDeviceTimeoutSec=300s\n"
            .to_owned(),
    }
}
