//! Steps common to every new sandbox: its name and place are reserved, its tree is filled, it is registered. An
//! interruption leaves nothing behind.

pub mod clone;
pub mod create;
mod delete;
pub mod export;
pub(super) mod freeze;
pub(super) mod identity;
pub mod import;
pub(super) mod metadata;
pub mod rename;
mod trust;

use std::path::{Path, PathBuf};

use crate::config::{Hostname, SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::facts::unit::UnitName;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::service::base::Provenance;
use crate::service::image;
use crate::service::journal::{Intent, Kind, Removal};
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::tree::place;

/// Function that fills the tree at a path and returns the records of its origin.
pub(in crate::service) type Fill<'a> = dyn FnMut(&Path) -> Result<Provenance> + 'a;

impl Sandboxes {
    /// Creates the sandbox `config`, with the tree that `fill` makes.
    ///
    /// # Errors
    /// The name is taken, a network is missing, the place of the tree is not empty, `fill` fails or libvirt refuses. After
    /// an error nothing is left.
    pub(in crate::service) fn provision(
        &self,
        config: &SandboxConfig,
        fill: &mut Fill<'_>,
    ) -> Result<()> {
        let name = &config.name;
        let sandbox = Sandbox::new(self, config.clone());
        sandbox.check_networks()?;
        let lock = self.store.reserve(name)?;
        let sandbox = sandbox.locked_by(lock);
        let mut removal = Removal {
            connection: config.connection.clone(),
            uuid: config.uuid,
            tree: None,
            image: None,
            registered: false,
        };
        sandbox.provision(&mut removal, fill).map_err(|error| {
            let removed = sandbox
                .hypervisor()
                .and_then(|hypervisor| self.remove(name, &removal, hypervisor));
            error.followed_by(removed)
        })
    }

    /// Checks that a new sandbox can have this name, without asking libvirt.
    pub(in crate::service) fn check_name(&self, name: &SandboxName) -> Result<()> {
        self.store.check_free(name)?;
        let unit = self.store.unit(name);
        if unit.symlink_metadata().is_ok() {
            return Err(Error::exists(format!(
                "there is a unit '{}' already; choose another name",
                unit.display()
            )));
        }
        Ok(())
    }

    /// Returns the place of the tree of a new sandbox, in `base` or in the default directory.
    pub(in crate::service) fn tree_of(&self, name: &SandboxName, base: Option<&Path>) -> PathBuf {
        base.unwrap_or(&self.store.trees).join(name.as_str())
    }
}

impl LockedSandbox<'_> {
    /// Creates the sandbox with its reserved name. `removal` lists at every step what to remove after an interruption.
    fn provision(&self, removal: &mut Removal, fill: &mut Fill<'_>) -> Result<()> {
        let (name, config, store) = (self.name(), self.config(), self.store());
        check_domain(name, self.hypervisor()?)?;
        // Note it before it is created: a noted file may be missing.
        place::check(&config.path)?;
        place::check_image(config)?;
        removal.image = config.image_file();
        removal.tree = Some(config.path.clone());
        store.begin(name, Intent::Remove(removal.clone()))?;
        place::make(&config.path, config.uuid)?;
        let provenance = self.fill_tree(fill).map_err(|error| {
            image::explained(error, config.image, "make it larger with --imagesize")
        })?;
        provenance.save(store, name)?;

        removal.registered = true;
        store.begin(name, Intent::Remove(removal.clone()))?;
        self.render()?;
        config.save(&store.created(name))?;
        config.save(&store.config(name))?;
        store.end(name, Kind::Remove)
    }

    /// Creates the image, if requested, and fills the tree.
    fn fill_tree(&self, fill: &mut Fill<'_>) -> Result<Provenance> {
        image::make(self.config(), &self.stage())?;
        let tree = self.tree()?;
        let provenance = fill(tree.path())?;
        tree.sync()?;
        Ok(provenance)
    }
}

/// Checks that libvirt has no domain of this name.
fn check_domain(name: &SandboxName, hypervisor: &dyn Hypervisor) -> Result<()> {
    match hypervisor.state(name.as_str())? {
        DomainState::Missing => Ok(()),
        DomainState::Stopped | DomainState::Running { .. } | DomainState::Frozen { .. } => {
            Err(Error::exists(format!(
                "libvirt has a domain '{name}' that is not a sandbox's; choose another name"
            )))
        }
    }
}

/// Checks values of a foreign configuration that go into units, documents and command lines of this host.
pub(in crate::service) fn check_words(config: &SandboxConfig) -> Result<()> {
    for unit in config
        .workload
        .host_units()
        .iter()
        .chain(&config.keep_units)
    {
        UnitName::exact(unit).map_err(|error| Error::refused(error.to_string()))?;
    }
    for package in config.packages.iter().chain(&config.service_packages) {
        if !is_package(package) {
            return Err(Error::refused(format!(
                "'{package}' is not a name of a package"
            )));
        }
    }
    let hostname: std::result::Result<Hostname, _> = config.hostname.parse();
    hostname
        .map(drop)
        .map_err(|error| Error::refused(error.to_string()))
}

/// Returns true if a text is a valid package name of dpkg, rpm or pacman, and cannot be an option.
fn is_package(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-._~:@".contains(c))
}
