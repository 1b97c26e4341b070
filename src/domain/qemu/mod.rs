//! A virtual machine's domain: the smallest machine that shares files of the host and has a channel to it.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::network::Source;
use crate::config::resources::DEFAULT_MACHINE_MEMORY;
use crate::config::{Mac, Publish};
use crate::domain::interface::Interface;
use crate::domain::tune::{Tune, quota_us};
use crate::domain::{BlockDevice, BlockKind, Domain, SecLabelView, disk_name};
use crate::error::{Error, Result};
use crate::host::HostFacts;
use crate::sys::arch::Arch;

mod check;

pub use check::{Authority, check, check_domain};

/// Hardware of a virtual machine, beside its [`Domain`]. Every path is absolute and of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Emulation of the CPU.
    pub emulation: Emulation,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// Command line of the kernel.
    pub command_line: String,
    /// Virtio-serial ports.
    pub channels: Vec<Channel>,
    /// Destination of the console `hvc0`.
    pub console: Console,
    /// Unix socket that QEMU makes for the first serial port, if it has one; at most 107 bytes.
    pub serial: Option<PathBuf>,
    /// Directories of the host.
    pub shares: Vec<ShareDevice>,
    /// Whether QEMU ends when the guest is off. Else it waits for libvirt to end it, which may be gone if the driver is in the process
    /// of a client.
    pub ends_itself: bool,
    /// Highest number of CPUs while it runs.
    pub most_cpus: u32,
    /// Whether memory can be taken back from it.
    pub has_balloon: bool,
}

/// A virtio-serial port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Channel {
    /// Name in the guest.
    pub name: String,
    /// Unix socket that is made for it; at most 107 bytes.
    pub socket: PathBuf,
}

/// Destination of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Console {
    /// A Unix socket that is made for it; at most 107 bytes.
    Socket(PathBuf),
    /// A terminal of the host, with a copy of the output in a file.
    Log(PathBuf),
}

/// Emulation of the CPU of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulation {
    /// None: the host's CPU runs the guest.
    Kvm,
    /// QEMU, in software (TCG).
    Tcg,
}

/// A directory of the host that the guest can mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareDevice {
    /// Name that the guest mounts it by: 1 to 31 bytes for 9p, to 36 for virtiofs.
    pub tag: String,
    /// The directory.
    pub source: PathBuf,
    /// Transport of the files.
    pub transport: Transport,
}

/// Transport of files into a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// QEMU reads and writes the files.
    Plan9 {
        /// Whether files belong to the user who runs QEMU, and failures of chown(2) are hidden: for a QEMU that is not root.
        squash: bool,
        /// Whether QEMU refuses to write.
        read_only: bool,
    },
    /// A virtiofsd reads and writes the files.
    Virtiofs {
        /// The program that libvirt starts.
        binary: PathBuf,
        /// Whether it locks itself in with `chroot(2)`, where `pivot_root(2)` does not work.
        chroot: bool,
        /// Whether `binary` starts a virtiofsd that cannot write, which libvirt 9 cannot ask for.
        read_only: bool,
    },
}

impl Transport {
    /// Returns the name that kernels give its filesystem.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plan9 { .. } => "9p",
            Self::Virtiofs { .. } => "virtiofs",
        }
    }

    /// Returns whether the host refuses to write, whatever the guest's kernel asks for.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Plan9 { read_only, .. } | Self::Virtiofs { read_only, .. } => *read_only,
        }
    }
}

/// Fields of the template of a virtual machine's domain.
#[derive(Debug, Serialize)]
pub struct QemuDomain {
    r#type: &'static str,
    name: String,
    uuid: String,
    description: String,
    arch: Arch,
    machine: Option<&'static str>,
    has_acpi: bool,
    has_cpu: bool,
    memory_kib: u64,
    vcpus: u32,
    most_vcpus: u32,
    has_balloon: bool,
    cpu_quota_us: Option<u64>,
    #[serde(flatten)]
    tune: Tune,
    shared_memory: bool,
    kernel: PathBuf,
    initrd: PathBuf,
    command_line: String,
    on_reboot: &'static str,
    filesystems: Vec<ShareView>,
    disks: Vec<Disk>,
    interfaces: Vec<Interface>,
    arguments: Vec<String>,
    console: Option<PathBuf>,
    console_log: Option<PathBuf>,
    serial_port: Option<PathBuf>,
    consoles: u32,
    channels: Vec<Channel>,
    security: Option<SecLabelView>,
}

#[derive(Debug, Serialize)]
struct ShareView {
    source: PathBuf,
    tag: String,
    read_only: bool,
    access_mode: &'static str,
    virtiofsd: Option<PathBuf>,
    chroot: bool,
}

#[derive(Debug, Serialize)]
struct Disk {
    r#type: &'static str,
    source_attribute: &'static str,
    source: PathBuf,
    format: &'static str,
    target: String,
    serial: String,
    backing: bool,
    read_only: bool,
}

impl std::str::FromStr for Emulation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "kvm" => Ok(Self::Kvm),
            "qemu" | "tcg" => Ok(Self::Tcg),
            _ => Err(Error::refused(format!(
                "'{text}' is not a type of virtual machine: use kvm or qemu"
            ))),
        }
    }
}

impl Console {
    fn socket(&self) -> Option<&PathBuf> {
        match self {
            Self::Socket(path) => Some(path),
            Self::Log(_) => None,
        }
    }
}

impl QemuDomain {
    /// Returns the domain on `machine`.
    #[must_use]
    pub fn new(domain: &Domain, machine: &Machine, facts: &HostFacts) -> Self {
        let resources = &domain.resources;
        let (interfaces, mut arguments) = network(domain, facts.arch);
        if machine.ends_itself {
            // After libvirt's own -no-shutdown, which is the opposite.
            arguments.extend(["-action".to_owned(), "shutdown=poweroff".to_owned()]);
        }
        Self {
            r#type: match machine.emulation {
                Emulation::Kvm => "kvm",
                Emulation::Tcg => "qemu",
            },
            name: domain.name.to_string(),
            uuid: domain.uuid.to_string(),
            description: domain.description.clone(),
            arch: facts.arch,
            machine: machine_type(facts.arch),
            // libvirt refuses ACPI without UEFI elsewhere.
            has_acpi: facts.arch.is_x86(),
            has_cpu: has_highest_cpu(facts.arch),
            memory_kib: resources.memory.unwrap_or(DEFAULT_MACHINE_MEMORY).kibi(),
            vcpus: resources.cpus.unwrap_or(1),
            most_vcpus: machine.most_cpus.max(resources.cpus.unwrap_or(1)),
            has_balloon: machine.has_balloon,
            cpu_quota_us: resources.cpu_quota.map(quota_us),
            tune: Tune::new(resources),
            shared_memory: machine
                .shares
                .iter()
                .any(|share| matches!(share.transport, Transport::Virtiofs { .. })),
            kernel: machine.kernel.clone(),
            initrd: machine.initrd.clone(),
            command_line: machine.command_line.clone(),
            on_reboot: domain.on_reboot.as_str(),
            filesystems: machine.shares.iter().map(ShareView::from).collect(),
            disks: domain.disks.iter().enumerate().map(disk).collect(),
            interfaces,
            arguments,
            console: machine.console.socket().cloned(),
            console_log: match &machine.console {
                Console::Socket(_) => None,
                Console::Log(path) => Some(path.clone()),
            },
            serial_port: machine.serial.clone(),
            consoles: domain.consoles,
            channels: machine.channels.clone(),
            security: domain.security.as_ref().map(SecLabelView::from),
        }
    }
}

/// Returns the type of the machine; `None` where that of libvirt is right.
fn machine_type(arch: Arch) -> Option<&'static str> {
    match arch {
        // Starts a fifth of a second sooner than "pc" when emulated.
        Arch::X86_64 => Some("q35"),
        Arch::Aarch64 | Arch::Armv7l | Arch::Riscv64 | Arch::Loongarch64 => Some("virt"),
        Arch::I686 | Arch::Ppc64le | Arch::S390x | Arch::Other(_) => None,
    }
}

/// Returns whether QEMU has the CPU `max` in all versions that are in use.
fn has_highest_cpu(arch: Arch) -> bool {
    match arch {
        Arch::X86_64 | Arch::I686 | Arch::Aarch64 | Arch::Armv7l | Arch::S390x => true,
        Arch::Ppc64le | Arch::Riscv64 | Arch::Loongarch64 | Arch::Other(_) => false,
    }
}

/// Returns the address of NIC `index`, by which the guest tells it from the others.
#[must_use]
pub fn mac(domain: &Domain, index: usize) -> Mac {
    domain
        .networks
        .get(index)
        .and_then(|network| network.mac)
        .unwrap_or_else(|| Mac::of_sandbox(&domain.uuid, index))
}

/// Returns the NICs, and the arguments of QEMU for the NIC that publishes ports, which libvirt 9 cannot describe.
fn network(domain: &Domain, arch: Arch) -> (Vec<Interface>, Vec<String>) {
    let (mut interfaces, mut arguments) = (Vec::new(), Vec::new());
    let mut publish = domain.publish.as_slice();
    for (index, network) in domain.networks.iter().enumerate() {
        let source = network.source.as_ref().unwrap_or(&Source::User);
        let mac = mac(domain, index);
        if *source == Source::User && !publish.is_empty() {
            arguments.extend(publishing_nic(
                arch,
                index,
                mac,
                std::mem::take(&mut publish),
            ));
        } else {
            interfaces.push(Interface::new(
                index,
                network,
                source,
                Some(mac),
                &domain.resources,
            ));
        }
    }
    (interfaces, arguments)
}

fn publishing_nic(arch: Arch, index: usize, mac: Mac, publish: &[Publish]) -> [String; 4] {
    let forwards: String = publish
        .iter()
        .map(|publish| {
            let address = publish
                .address
                .map(|address| address.to_string())
                .unwrap_or_default();
            format!(
                ",hostfwd={}:{address}:{}-:{}",
                publish.protocol.as_str(),
                publish.host,
                publish.guest
            )
        })
        .collect();
    let device = serde_json::json!({
        "driver": match arch == Arch::S390x {
            true => "virtio-net-ccw",
            false => "virtio-net-pci",
        },
        "netdev": format!("published{index}"),
        "mac": mac.to_string(),
        "romfile": "",
    });
    [
        "-netdev".to_owned(),
        format!("user,id=published{index}{forwards}"),
        "-device".to_owned(),
        // JSON, as for libvirt's own devices: QEMU makes devices of another syntax before them, in slots that libvirt has assigned.
        device.to_string(),
    ]
}

fn disk((index, disk): (usize, &BlockDevice)) -> Disk {
    let (r#type, source_attribute) = match disk.kind {
        BlockKind::File => ("file", "file"),
        BlockKind::Block => ("block", "dev"),
    };
    Disk {
        r#type,
        source_attribute,
        source: disk.source.clone(),
        format: disk.format.libvirt_name(),
        target: disk_name("vd", index),
        serial: disk.serial.clone(),
        backing: disk.backing,
        read_only: disk.read_only || disk.format.is_read_only(),
    }
}

impl From<&ShareDevice> for ShareView {
    fn from(share: &ShareDevice) -> Self {
        let (source, tag) = (share.source.clone(), share.tag.clone());
        match &share.transport {
            Transport::Plan9 { squash, read_only } => Self {
                source,
                tag,
                read_only: *read_only,
                access_mode: match squash {
                    true => "squash",
                    false => "passthrough",
                },
                virtiofsd: None,
                chroot: false,
            },
            Transport::Virtiofs { binary, chroot, .. } => Self {
                source,
                tag,
                // libvirt 9 refuses `<readonly/>` for virtiofs; the program cannot write.
                read_only: false,
                access_mode: "passthrough",
                virtiofsd: Some(binary.clone()),
                chroot: *chroot,
            },
        }
    }
}

#[cfg(test)]
mod tests;
