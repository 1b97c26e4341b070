//! Sandboxes of services in virtual machines: reached through ports, by asking a process of ours in the guest.

mod assembly;
mod carrier;
mod inside;
mod limits;
pub(super) mod shares;
mod way;

use std::path::Path;
use std::time::Duration;

use guest_init::config::{File, GuestConfig, Payload, Platform, StaticUnits};

use self::assembly::Assembly;
pub(super) use self::inside::Machine;
pub(super) use self::limits::limit;
use self::limits::most_cpus;
use self::way::WAYS;
use crate::config::{Confinement, KernelRequest, SandboxConfig};
use crate::domain::Domain;
use crate::domain::qemu::{self, Authority, Emulation, Machine as Hardware, QemuDomain, Transport};
use crate::domain::template::Template;
use crate::driver::ability::{Abilities, emulation_of_environment, usable_emulation};
use crate::driver::container::SYSTEMD;
use crate::driver::{Contents, Shared, Site};
use crate::error::{Error, Result};
use crate::guest;
use crate::guest::kernel::{self, Kernel};
use crate::host::HostFacts;
use crate::hypervisor::Hypervisor;
use crate::label;
use crate::label::selinux::{self, Kind};
use crate::sys::file::private;

/// The file in the sandbox's directory that has what the guest says on its console.
const LOG: &str = "guest.log";

pub(super) fn check(config: &SandboxConfig) -> Result<()> {
    if let Some(device) = config.devices.first() {
        return Err(Error::refused(format!(
            "the device '{device}': a virtual machine has those of its own kernel; leave it out, or use a container"
        )));
    }
    let confinement = Confinement::of_service(config);
    confinement.check_machine()?;
    // What depends on the kernel is checked when the machine is built.
    qemu::check_domain(&Domain::of_service(config), Authority::Root)
}

pub(super) fn build(
    config: &SandboxConfig,
    contents: Contents,
    facts: &HostFacts,
    site: Site<'_>,
    hypervisor: &dyn Hypervisor,
) -> Result<String> {
    let mut domain = Domain::of_service(config);
    let emulation = emulation()?;
    let kind = Kind::Machine {
        emulated: emulation == Emulation::Tcg,
    };
    let given = super::labelled(config, kind, &site, hypervisor)?;
    let kernel = Kernel::find(Path::new("/"), &config.kernel)?;
    let abilities = Abilities::of_host(&kernel, Authority::Root)?;
    let mut assembly = Assembly::new(config, facts, &abilities)?;
    let has_balloon = kernel.has("virtio_balloon")?;
    assembly
        .features
        .extend(has_balloon.then_some(kernel::Feature::Balloon));
    domain.disks.extend(assembly.tree.take());
    let boot = kernel::prepare(
        Path::new(kernel::CACHE),
        &kernel,
        &assembly.features,
        &guest::find_init()?,
    )?;
    let mut files = contents.files;
    files.extend((emulation == Emulation::Tcg).then(patient_systemd));
    let payload = Payload::Init {
        command: vec![SYSTEMD.to_owned(), format!("--unit={}", contents.target)],
        environment: guest::credentials_variable(&contents.credentials)
            .into_iter()
            .collect(),
    };
    // It is not confined: the kernel is its own.
    let guest = GuestConfig {
        debug: guest::is_debugged(),
        staged: assembly.staged,
        mounts: assembly.mounts,
        user_mounts: assembly.user_mounts,
        agent_ports: WAYS,
        files,
        credentials: contents.credentials,
        static_units: Some(StaticUnits {
            keep: contents.keep_units,
        }),
        max_pids: Some(config.resources.machine_pids()),
        network: super::nics(config, hypervisor)?,
        ..GuestConfig::new(
            config.name.as_str(),
            &config.hostname,
            Platform::Machine,
            payload,
        )
    };
    make_stage(site.stage)?;
    if let Some(files) = &given.files {
        selinux::label(site.stage, files)?;
    }
    let copies = site.stage.join(kernel::COPIES);
    let boot = match site.starts {
        true => {
            let reader = label::qemu_account(&hypervisor.capabilities()?);
            copy_boot_files(&boot, &copies, reader, &guest)?
        }
        false => kernel::Boot::below(&copies),
    };
    domain.security = given.domain;
    let hardware = Hardware {
        emulation,
        kernel: boot.kernel,
        initrd: boot.initrd,
        command_line: kernel::command_line(false, None),
        channels: way::channels(&way::directory(site.stage)),
        console: qemu::Console::Log(site.stage.join(LOG)),
        serial: None,
        shares: assembly.shares,
        ends_itself: false,
        most_cpus: most_cpus(&config.resources),
        has_balloon,
    };
    qemu::check(&domain, &hardware, Authority::Root)?;
    let view = QemuDomain::new(&domain, &hardware, facts);
    Template::QemuDomain.render(&view, Some(site.templates))
}

/// Files that virtiofsd has made have the type of the tree, but not its categories, since it has none itself.
pub(super) fn settle(config: &SandboxConfig) {
    if config.image.is_some() {
        return;
    }
    if let Err(error) = selinux::label_as_top(&config.path) {
        log::warn!("labelling what '{}' has made: {error}", config.name);
    }
}

fn make_stage(stage: &Path) -> Result<()> {
    // Passed through by QEMU, which runs as another user.
    private::directory(stage, 0o711).map_err(Error::io("creating", stage))?;
    // libvirt opens the sockets for it: who can connect to them is root inside.
    let ways = way::directory(stage);
    private::directory(&ways, 0o700).map_err(Error::io("creating", &ways))
}

/// Writes what the machine boots from, with its config in it: so it finds that also when it reboots. The config has secrets, so
/// `reader`, who runs QEMU, reads it alone, and it is emptied once QEMU has it.
fn copy_boot_files(
    boot: &kernel::Boot,
    to: &Path,
    reader: Option<(u32, u32)>,
    guest: &GuestConfig,
) -> Result<kernel::Boot> {
    let text = serde_json::to_vec(guest).map_err(Error::step("writing the guest config"))?;
    let copies = boot.copy_to(to, reader, &kernel::archive_of("guest.json", &text))?;
    selinux::share_with_machines(to);
    Ok(copies)
}

fn emulation() -> Result<Emulation> {
    Ok(emulation_of_environment()?.unwrap_or_else(usable_emulation))
}

pub(super) fn boot_time() -> Result<Duration> {
    Ok(Duration::from_secs(match emulation()? {
        Emulation::Kvm => 30,
        Emulation::Tcg => 180,
    }))
}

pub(super) fn needs_image(kernel: &KernelRequest) -> Result<Option<String>> {
    let kernel = Kernel::find(Path::new("/"), kernel)?;
    Abilities::of_host(&kernel, Authority::Root)?.no_owners()
}

pub(super) fn sharing(config: &SandboxConfig, facts: &HostFacts) -> Result<Vec<Shared>> {
    let kernel = Kernel::find(Path::new("/"), &config.kernel)?;
    let abilities = Abilities::of_host(&kernel, Authority::Root)?;
    let assembly = Assembly::new(config, facts, &abilities)?;
    let shared = |share: qemu::Share| Shared {
        source: share.source,
        read_only: share.transport.is_read_only(),
        how: match share.transport {
            Transport::Plan9 {
                read_only: true, ..
            } => {
                "9p, owners as on the host; read by QEMU as the user that libvirt runs it as, which refuses to write"
            }
            Transport::Plan9 { .. } => {
                "9p, owners as on the host; written by QEMU as the user that libvirt runs it as"
            }
            Transport::Virtiofs {
                read_only: true, ..
            } => {
                "virtiofs, owners as on the host; read by a virtiofsd of root's, whose mounts are read-only"
            }
            Transport::Virtiofs { .. } => {
                "virtiofs, owners as on the host; written by a virtiofsd of root's"
            }
        },
    };
    let shares = assembly.shares.into_iter().map(shared);
    let image = config.image_file().map(|source| Shared {
        source,
        read_only: false,
        how: "virtio disk, owners in its filesystem; mounted by the machine's kernel, and by nothing of the host meanwhile",
    });
    Ok(shares.chain(image).collect())
}

/// In an emulated machine all takes several times as long: units that say nothing of it get more time than systemd gives them.
fn patient_systemd() -> File {
    File {
        path: "/run/systemd/system.conf.d/10-emulated.conf".into(),
        mode: 0o644,
        content: "[Manager]\nDefaultTimeoutStartSec=300s\nDefaultDeviceTimeoutSec=300s\n"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests;
