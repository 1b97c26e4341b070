//! Building a service: from its configuration to a domain that libvirt can define.

use std::path::Path;

use guest_init::config::{Credential, File, Nic, Payload, StaticUnits};

use super::build::{BuildContext, Spec};
use super::machine::emulation;
use super::{Driver, SYSTEMD, machine};
use crate::config::{Confinement, SandboxConfig};
use crate::domain::qemu::Emulation;
use crate::domain::{BlockDevice, Domain};
use crate::error::Result;
use crate::guest::ids::Registry;
use crate::guest::kernel;
use crate::guest::layout::Layout;
use crate::guest::{self, find_init};
use crate::host::HostFacts;
use crate::hypervisor::Hypervisor;
use crate::label::selinux::{self, Kind};
use crate::label::{self, Assigned};

/// Units and files that a service needs inside, whatever its driver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitUnits {
    /// Files written below `/run` before systemd starts.
    pub files: Vec<File>,
    /// Credentials of the service.
    pub credentials: Vec<Credential>,
    /// Static boot-time units of `/usr` that stay.
    pub keep_units: Vec<String>,
    /// The unit that systemd boots into.
    pub target: String,
}

/// A service that is to be built.
#[derive(Debug)]
pub struct ServiceBuild<'a> {
    /// Configuration of the service.
    pub config: &'a SandboxConfig,
    /// Units and files inside.
    pub units: InitUnits,
    /// Facts of the host.
    pub facts: &'a HostFacts,
    /// A directory of the sandbox's own, made anew at every start.
    pub stage: &'a Path,
    /// The directory of its configuration, beside those of others.
    pub record: &'a Path,
    /// Templates of the admin.
    pub templates: &'a Path,
    /// The block device of the image that holds the tree, while a sandbox with the host's kernel starts.
    pub device: Option<&'a Path>,
    /// Whether the sandbox is about to start: then its files are made, with its secrets.
    pub starts: bool,
    /// The tree, if its files may have changed since they were labelled.
    pub changed: Option<&'a Path>,
}

impl ServiceBuild<'_> {
    /// Makes the files on the host that a start needs, and returns the domain as libvirt takes it.
    ///
    /// # Errors
    /// Where the driver or the host cannot do what the configuration asks for, or a file cannot be written.
    pub fn build(&self, hypervisor: &dyn Hypervisor) -> Result<String> {
        let config = self.config;
        let driver = Driver::of_service(&config.connection)?;
        let (kind, emulation) = match driver {
            Driver::Lxc => (Kind::Container, None),
            Driver::Qemu(_) => {
                let emulation = emulation::of_services()?;
                let emulated = emulation == Emulation::Tcg;
                (Kind::Machine { emulated }, Some(emulation))
            }
        };
        let label = self.label(kind, hypervisor)?;
        let confinement = Confinement::of_service(config);
        let nics = nics(config, hypervisor)?;
        let mut spec = self.spec(driver, &confinement, nics)?;
        spec.domain.security = label.domain;
        spec.emulation = emulation;
        let (init, registry) = (find_init()?, registry(self.record));
        let boot = driver.build(&spec, &self.context(&init, &registry))?;
        match &boot.machine {
            None => guest::stage(self.stage, &init, &boot.guest)?,
            Some(_) => machine::make_stage(self.stage)?,
        }
        if let Some(files) = &label.files {
            selinux::label(self.stage, files)?;
        }
        if let (Some(files), true) = (&boot.machine, self.has_boot_files()) {
            let reader = label::qemu_account(&hypervisor.capabilities()?);
            let copies = self.stage.join(kernel::BOOT_FILES);
            machine::copy_boot_files(&files.boot, &copies, reader, &boot.guest)?;
        }
        Ok(boot.xml)
    }

    /// Returns whether a machine has its boot files, so that libvirt alone can start it too. Those with secrets are there only while it
    /// starts.
    fn has_boot_files(&self) -> bool {
        self.starts || !self.config.has_secrets()
    }

    /// Returns the specification of the service.
    pub(super) fn spec<'a>(
        &'a self,
        driver: Driver,
        confinement: &'a Confinement,
        nics: Vec<Nic>,
    ) -> Result<Spec<'a>> {
        let Self { config, units, .. } = self;
        let mut layout = Layout::of_service(config, self.facts, driver.single_files())?;
        if !driver.has_own_kernel() {
            layout.mounts.extend(guest::own_databases(&self.facts.root));
        }
        let of_container = driver.container().map(|name| {
            [
                ("container".to_owned(), name.to_owned()),
                ("container_uuid".to_owned(), config.uuid.to_string()),
            ]
        });
        let payload = Payload::Init {
            command: vec![SYSTEMD.to_owned(), format!("--unit={}", units.target)],
            environment: (of_container.into_iter().flatten())
                .chain(guest::credentials_variable(&units.credentials))
                .collect(),
        };
        Ok(Spec {
            domain: Domain::of_service(config),
            layout,
            hostname: &config.hostname,
            debug: guest::is_debugged(),
            confinement,
            kernel: &config.kernel,
            emulation: None,
            nics,
            files: units.files.clone(),
            credentials: units.credentials.clone(),
            static_units: Some(StaticUnits {
                keep: units.keep_units.clone(),
            }),
            payload,
        })
    }

    /// Returns the places that the service is built with.
    pub(super) fn context<'a>(
        &'a self,
        init: &'a Path,
        registry: &'a Registry,
    ) -> BuildContext<'a> {
        BuildContext {
            facts: self.facts,
            init,
            stage: self.stage,
            record: self.record,
            registry,
            has_boot_files: self.has_boot_files(),
            claims_ids: true,
            devices: self.device.map(BlockDevice::of_host).into_iter().collect(),
            templates: self.templates,
            cache: Path::new(kernel::CACHE),
        }
    }

    /// Finds the security label of the service, and labels its files.
    fn label(&self, kind: Kind, hypervisor: &dyn Hypervisor) -> Result<Assigned> {
        let Self { config, record, .. } = *self;
        let model = label::model(&hypervisor.capabilities()?);
        let services = record.parent().unwrap_or(Path::new(guest::SERVICES));
        let sandbox = label::Labelled {
            name: &config.name,
            uuid: config.uuid,
            kind,
            record,
            records: &[services, Path::new(guest::RUNTIME)],
            templates: self.templates,
            file_type: config.file_type.as_ref(),
        };
        let label = label::assign(config.security.as_ref(), model, &sandbox)?;
        if let Some(files) = &label.files {
            match (self.changed, config.image) {
                (Some(tree), _) => selinux::label(tree, files)?,
                // It is not mounted here.
                (None, Some(_)) => {}
                (None, None) => match kind {
                    Kind::Container => selinux::label_if_changed(&config.path, files)?,
                    // A machine that was not stopped, but ended, has left files without its categories.
                    Kind::Machine { .. } => selinux::label(&config.path, files)?,
                },
            }
            if self.changed.is_some() && config.image.is_none() {
                selinux::remember(&config.path, files);
            }
        }
        Ok(label)
    }
}

/// Returns the ids of the sandboxes beside the one whose configuration is in the directory `record`.
pub(super) fn registry(record: &Path) -> Registry {
    let services = record.parent().unwrap_or(Path::new(guest::SERVICES));
    Registry::of(&[services, Path::new(guest::RUNTIME)])
}

/// Returns the NICs as the guest sees them, with the addresses that the servers of libvirt's networks are likely to give.
fn nics(config: &SandboxConfig, hypervisor: &dyn Hypervisor) -> Result<Vec<Nic>> {
    let mut nics = guest::nics(&config.networks);
    for (nic, network) in nics.iter_mut().zip(&config.networks) {
        if let Some(source) = network.container_network() {
            nic.hint = hypervisor.likely_address(source, &config.uuid)?;
        }
    }
    Ok(nics)
}
