//! The sandboxes of a host: what every operation needs, and the operations that are a few lines.

use std::path::Path;

use guest_init::config::Credential;

use crate::config::{SandboxConfig, SandboxName};
use crate::driver::{Driver, Guest, InitUnits, Owners, ServiceBuild, SharedDirectory};
use crate::error::{Error, Result};
use crate::host::HostFacts;
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::label::selinux;
use crate::service::image::{self, Tree};
use crate::service::init_units;
use crate::service::store::Store;

/// The sandboxes of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandboxes {
    /// Where they are kept.
    pub store: Store,
    /// The libvirt connection of new ones.
    pub connection: String,
}

/// Why what is derived from a configuration is made.
#[derive(Debug)]
pub(super) enum Occasion<'a> {
    /// The sandbox starts, with the block device that the image of its tree has while it runs, and its credentials.
    Start {
        device: Option<&'a Path>,
        credentials: Vec<Credential>,
    },
    /// The configuration is new or has changed, and perhaps what is in the tree.
    Change { tree: Option<&'a Path> },
}

impl Sandboxes {
    /// Those of this host, new ones on `connection`.
    #[must_use]
    pub fn new(connection: &str) -> Self {
        Self {
            store: Store::default(),
            connection: connection.to_owned(),
        }
    }

    /// Makes everything that is derived from the configuration anew: the staging root, the domain, the host's unit.
    ///
    /// # Errors
    /// Where a template is wrong, a file cannot be written or libvirt refuses the domain.
    pub(super) fn render(&self, config: &SandboxConfig, hypervisor: &dyn Hypervisor) -> Result<()> {
        // Of an image that is a mount, which only SELinux needs.
        let tree = match selinux::is_on() {
            true => Some(self.tree(config)?),
            false => None,
        };
        let occasion = Occasion::Change {
            tree: tree.as_ref().map(Tree::path),
        };
        self.render_with(config, occasion, hypervisor)?;
        tree.map_or(Ok(()), |tree| tree.settle())
    }

    /// Makes everything that is derived from the configuration anew, at the sandbox's start or after a change.
    pub(super) fn render_with(
        &self,
        config: &SandboxConfig,
        occasion: Occasion<'_>,
        hypervisor: &dyn Hypervisor,
    ) -> Result<()> {
        let (starts, device, changed, credentials) = match occasion {
            Occasion::Start {
                device,
                credentials,
            } => (true, device, None, credentials),
            Occasion::Change { tree } => (false, None, tree, vec![]),
        };
        let facts = HostFacts::probe(Path::new("/"))?;
        let service = ServiceBuild {
            config,
            units: InitUnits {
                credentials,
                ..init_units::init_units(config, &self.store.templates)?
            },
            facts: &facts,
            stage: &self.store.stage(&config.name),
            record: &self.store.dir(&config.name),
            templates: &self.store.templates,
            device,
            starts,
            changed,
        };
        hypervisor.define(&service.build(hypervisor)?)?;
        self.store.unlink_journal(config.uuid);
        self.write_unit(config)?;
        Ok(())
    }

    /// Returns the driver of a sandbox.
    ///
    /// # Errors
    /// Where its configuration names none.
    pub(super) fn driver(&self, config: &SandboxConfig) -> Result<Driver> {
        Driver::of_service(&config.connection)
    }

    /// Reaches the tree of a sandbox, also while it runs.
    ///
    /// # Errors
    /// Where it is in an image that cannot be mounted.
    pub(super) fn tree(&self, config: &SandboxConfig) -> Result<Tree> {
        image::open_tree(config, &self.store.stage(&config.name))
    }

    /// Returns a handle on a running sandbox; `None` if it does not run.
    ///
    /// # Errors
    /// Where libvirt does not answer.
    pub(super) fn guest(
        &self,
        config: &SandboxConfig,
        hypervisor: &dyn Hypervisor,
    ) -> Result<Option<Box<dyn Guest>>> {
        self.guest_of(config, hypervisor.state(config.name.as_str())?)
    }

    /// Returns a handle on a sandbox that is in this state.
    ///
    /// # Errors
    /// Where its configuration names no driver.
    pub(super) fn guest_of(
        &self,
        config: &SandboxConfig,
        state: DomainState,
    ) -> Result<Option<Box<dyn Guest>>> {
        let stage = self.store.stage(&config.name);
        Ok(self.driver(config)?.guest(config, &stage, state))
    }

    /// A connection for the domain of a sandbox.
    ///
    /// # Errors
    /// Where no daemon answers.
    pub(super) fn hypervisor(&self, config: &SandboxConfig) -> Result<Libvirt> {
        Libvirt::open(&config.connection)
    }

    /// Reaches into a running sandbox.
    ///
    /// # Errors
    /// Where it does not run; the message says how to start it.
    pub fn enter(&self, name: &SandboxName) -> Result<Box<dyn Guest>> {
        let config = self.store.load(name)?;
        let state = self.hypervisor(&config)?.state(name.as_str())?;
        if let DomainState::Paused { .. } = state {
            return Err(Error::not_ready(format!(
                "the sandbox '{name}' is paused; resume it with 'virsh -c {} resume {name}'",
                config.connection
            )));
        }
        self.guest_of(&config, state)?.ok_or_else(|| {
            Error::not_running(format!(
                "the sandbox '{name}' does not run; start it with 'virt-sandbox-service start {name}'"
            ))
        })
    }

    /// Syncs a running sandbox's files to the host; does nothing if it is stopped.
    ///
    /// # Errors
    /// Where there is no such sandbox, or libvirt or the sandbox does not answer.
    pub fn settle(&self, name: &SandboxName) -> Result<()> {
        let config = self.store.load(name)?;
        match self.hypervisor(&config)?.state(name.as_str())? {
            state @ DomainState::Running { .. } => match self.guest_of(&config, state)? {
                Some(guest) => guest.sync(),
                None => Ok(()),
            },
            DomainState::Paused { .. } | DomainState::Stopped | DomainState::Missing => Ok(()),
        }
    }

    /// How the files of the tree of a sandbox keep their owners.
    ///
    /// # Errors
    /// Where ids are asked for that cannot be had.
    pub fn owners(&self, config: &SandboxConfig) -> Result<Owners> {
        let facts = HostFacts::probe(Path::new("/"))?;
        let record = self.store.dir(&config.name);
        self.driver(config)?.owners(config, &facts, &record)
    }

    /// Returns the directories of the host that a sandbox has, and how each gets into it.
    ///
    /// # Errors
    /// Where one cannot.
    pub fn sharing(&self, config: &SandboxConfig) -> Result<Vec<SharedDirectory>> {
        let facts = HostFacts::probe(Path::new("/"))?;
        self.driver(config)?.shared_directories(config, &facts)
    }
}
