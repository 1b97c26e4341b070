//! One sandbox: its configuration, paths, driver and libvirt connection.

use std::cell::OnceCell;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{SandboxConfig, SandboxName};
use crate::driver::{Driver, Guest, Owners, SharedDirectory};
use crate::error::{Error, Result};
use crate::hypervisor::{DomainState, Hypervisor};
use crate::service::connections::Connections;
use crate::service::image::{self, Tree};
use crate::service::journal::Kind;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Store;
use crate::sys::file::lock::Lock;
use crate::tree::place;

impl Sandboxes {
    /// Reads the configuration of a sandbox.
    ///
    /// # Errors
    /// There is no such sandbox (the message lists the existing ones), or its file is invalid or belongs to another sandbox.
    pub fn get(&self, name: &SandboxName) -> Result<Sandbox<'_>> {
        Ok(Sandbox::new(self, self.store.load(name)?))
    }

    /// Reads the configuration of a sandbox as [`get`](Self::get) does, and uses a connection of `connections`.
    pub(super) fn get_connected(
        &self,
        name: &SandboxName,
        connections: &mut Connections,
    ) -> Result<Sandbox<'_>> {
        let sandbox = self.get(name)?;
        let connection = connections.open(&self.connector, &sandbox.config().connection)?;
        Ok(sandbox.connected_by(connection))
    }

    /// Reads the configuration of a sandbox that is to be stopped or deleted; if the file is broken, the one that it was
    /// started or created with.
    ///
    /// # Errors
    /// [`get`](Self::get) fails, and no copy of the configuration can be read either.
    pub fn get_for_stop(&self, name: &SandboxName) -> Result<Sandbox<'_>> {
        Ok(Sandbox::new(self, self.store.load_for_stop(name)?))
    }
}

/// A sandbox of a host, with its configuration at the time of reading.
///
/// Reading needs no lock. [`LockedSandbox`] has the operations that change it.
#[derive(Debug)]
pub struct Sandbox<'a> {
    host: &'a Sandboxes,
    config: SandboxConfig,
    connection: OnceCell<Arc<dyn Hypervisor>>,
}

impl<'a> Sandbox<'a> {
    pub(super) fn new(host: &'a Sandboxes, config: SandboxConfig) -> Self {
        Self {
            host,
            config,
            connection: OnceCell::new(),
        }
    }

    /// Takes the lock of the sandbox, waiting for its holder, and reads the configuration again: it stays valid as long as
    /// the lock is held.
    ///
    /// # Errors
    /// Errors of [`Sandboxes::get`], also if the sandbox has disappeared once the lock is free.
    pub fn lock(&self) -> Result<LockedSandbox<'a>> {
        let lock = self.store().lock(self.name())?;
        let config = self.store().load(self.name())?;
        Ok(Self::new(self.host, config).locked_by(lock))
    }

    /// Takes the lock as [`lock`](Self::lock) does, and reads the configuration as [`Sandboxes::get_for_stop`] does.
    ///
    /// # Errors
    /// Errors of [`Sandboxes::get_for_stop`], also if the sandbox has disappeared once the lock is free.
    pub fn lock_for_stop(&self) -> Result<LockedSandbox<'a>> {
        let lock = self.store().lock_for_stop(self.name())?;
        let config = self.store().load_for_stop(self.name())?;
        Ok(Self::new(self.host, config).locked_by(lock))
    }

    /// Returns the sandbox with its lock, which the caller holds.
    pub(super) fn locked_by(self, lock: impl Into<Arc<Lock>>) -> LockedSandbox<'a> {
        LockedSandbox {
            sandbox: self,
            lock: lock.into(),
        }
    }

    /// Returns the sandboxes of its host.
    #[must_use]
    pub fn host(&self) -> &'a Sandboxes {
        self.host
    }

    /// Returns the places of the sandboxes of its host.
    #[must_use]
    pub fn store(&self) -> &'a Store {
        &self.host.store
    }

    /// Returns its configuration.
    #[must_use]
    pub fn config(&self) -> &SandboxConfig {
        &self.config
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &SandboxName {
        &self.config.name
    }

    /// Returns its staging root.
    pub(super) fn stage(&self) -> PathBuf {
        self.store().stage(self.name())
    }

    /// Returns its driver.
    ///
    /// # Errors
    /// The configuration names no driver.
    pub fn driver(&self) -> Result<Driver> {
        Driver::of_service(&self.config.connection)
    }

    /// Returns the libvirt connection of its domain, opened at first use.
    ///
    /// # Errors
    /// No daemon answers.
    pub(super) fn hypervisor(&self) -> Result<&dyn Hypervisor> {
        if let Some(open) = self.connection.get() {
            return Ok(&**open);
        }
        let open = self.host.connector.open(&self.config.connection)?;
        Ok(&**self.connection.get_or_init(|| open))
    }

    /// Sets an open connection to use.
    pub(super) fn connected_by(self, connection: Arc<dyn Hypervisor>) -> Self {
        Self {
            connection: OnceCell::from(connection),
            ..self
        }
    }

    /// Closes its connection before a long wait, in which the daemon may be restarted.
    pub(super) fn disconnect(&mut self) {
        self.connection.take();
    }

    /// Returns the state of its domain.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub(super) fn state(&self) -> Result<DomainState> {
        self.hypervisor()?.state(self.name().as_str())
    }

    /// Returns true if the sandbox runs or is frozen.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self.state()?.is_active())
    }

    /// Returns a handle on the running guest, or `None` if it does not run.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub(super) fn guest(&self) -> Result<Option<Box<dyn Guest>>> {
        self.guest_in(self.state()?)
    }

    /// Returns a handle on the guest in the given state.
    ///
    /// # Errors
    /// The configuration names no driver.
    pub(super) fn guest_in(&self, state: DomainState) -> Result<Option<Box<dyn Guest>>> {
        Ok(self.driver()?.guest(&self.config, &self.stage(), state))
    }

    /// Returns a handle on the guest, which must be running.
    ///
    /// # Errors
    /// The guest does not run; the message says how to start it.
    pub fn enter(&self) -> Result<Box<dyn Guest>> {
        let name = self.name();
        let state = self.state()?;
        if let DomainState::Frozen { .. } = state {
            return Err(Error::not_ready(format!(
                "the sandbox '{name}' is frozen; let it run on with 'virsh -c {} resume {name}'",
                self.config.connection
            )));
        }
        self.guest_in(state)?.ok_or_else(|| self.not_running())
    }

    /// Returns the error of an operation that needs a running guest.
    pub(super) fn not_running(&self) -> Error {
        let name = self.name();
        Error::not_running(format!(
            "the sandbox '{name}' does not run; start it with 'virt-sandbox-service start {name}'"
        ))
    }

    /// Checks that the libvirt networks of its NICs are active.
    pub(super) fn check_networks(&self) -> Result<()> {
        for network in &self.config.networks {
            if let Some(source) = network.container_network() {
                self.hypervisor()?.is_network_active(source)?;
            }
            if let Some(filter) = &network.filter {
                self.hypervisor()?.check_filter(&filter.name)?;
            }
        }
        Ok(())
    }

    /// Returns an error if the sandbox runs.
    pub(super) fn check_stopped(&self) -> Result<()> {
        let name = self.name();
        match self.state()?.is_active() {
            true => Err(Error::running(format!(
                "the sandbox '{name}' is running; stop it with 'virt-sandbox-service stop {name}'"
            ))),
            false => Ok(()),
        }
    }

    /// Checks that the tree exists and belongs to the sandbox, without a link in place of a directory that the guest gets.
    pub(super) fn check_tree(&self) -> Result<()> {
        place::must_be_of(&self.config.path, self.config.uuid)
    }

    /// Returns an error if an upgrade of the sandbox is in progress.
    pub(super) fn check_not_upgrading(&self) -> Result<()> {
        let name = self.name();
        match self.store().has_intent(name, Kind::Upgrade)? {
            true => Err(Error::busy(format!(
                "the sandbox '{name}' is being upgraded; try again when that is done"
            ))),
            false => Ok(()),
        }
    }

    /// Opens its tree, also while it runs.
    ///
    /// # Errors
    /// The tree is in an image that cannot be mounted.
    pub(super) fn tree(&self) -> Result<Tree> {
        image::open_tree(&self.config, &self.stage())
    }

    /// Syncs a running guest's files to the host; does nothing if it is stopped.
    ///
    /// # Errors
    /// libvirt or the guest does not answer.
    pub fn sync(&self) -> Result<()> {
        match self.state()? {
            state @ DomainState::Running { .. } => match self.guest_in(state)? {
                Some(guest) => guest.sync(),
                None => Ok(()),
            },
            DomainState::Frozen { .. } | DomainState::Stopped | DomainState::Missing => Ok(()),
        }
    }

    /// Returns how file owners in its tree are mapped.
    ///
    /// # Errors
    /// The requested ids are not available.
    pub fn owners(&self) -> Result<Owners> {
        let facts = self.host().probe_host()?;
        let record = self.store().dir(self.name());
        self.driver()?.owners(&self.config, &facts, &record)
    }

    /// Returns the directories of the host that it has, and how each gets into it.
    ///
    /// # Errors
    /// A directory cannot be shared.
    pub fn sharing(&self) -> Result<Vec<SharedDirectory>> {
        let facts = self.host().probe_host()?;
        self.driver()?.shared_directories(&self.config, &facts)
    }
}

/// A sandbox with its lock held, so that no other command changes it.
#[derive(Debug)]
pub struct LockedSandbox<'a> {
    sandbox: Sandbox<'a>,
    lock: Arc<Lock>,
}

impl<'a> Deref for LockedSandbox<'a> {
    type Target = Sandbox<'a>;

    fn deref(&self) -> &Self::Target {
        &self.sandbox
    }
}

impl LockedSandbox<'_> {
    /// Closes its connection before a long wait, in which the daemon may be restarted.
    pub(super) fn disconnect(&mut self) {
        self.sandbox.disconnect();
    }

    /// Returns the lock, for a task that continues afterwards.
    pub(super) fn held_lock(&self) -> &Arc<Lock> {
        &self.lock
    }

    /// Replaces the configuration in memory and returns the old one.
    pub(super) fn replace_config(&mut self, config: SandboxConfig) -> SandboxConfig {
        if config.connection != self.sandbox.config.connection {
            self.disconnect();
        }
        std::mem::replace(&mut self.sandbox.config, config)
    }
}
