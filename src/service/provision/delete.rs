//! Deletion of a sandbox.

use std::path::Path;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::facts::package;
use crate::host::cgroup;
use crate::hypervisor::Hypervisor;
use crate::label::{apparmor, selinux};
use crate::service::host_unit;
use crate::service::journal::{Intent, Kind, Removal};
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::tree::place;

impl Sandbox<'_> {
    /// Deletes the sandbox with all its files. With `force`, a running one is stopped first, and a tree that is not there any
    /// more is no error.
    ///
    /// # Errors
    /// The sandbox runs, its tree is missing or belongs to another one, or libvirt does not answer. Nothing is removed then.
    /// Something cannot be removed; the next command tries again.
    pub fn delete(&self, force: bool) -> Result<()> {
        if force {
            // If the deletion is refused, the sandbox runs on.
            place::check_removal(&self.config().path, self.config().uuid)?;
            self.stop()?;
        }
        self.lock_for_stop()?.delete(force)
    }
}

impl LockedSandbox<'_> {
    fn delete(self, force: bool) -> Result<()> {
        let (name, config) = (self.name(), self.config());
        if self.state()?.is_active() {
            return Err(Error::running(format!(
                "the sandbox '{name}' is running; stop it with 'virt-sandbox-service stop {name}', or use --force"
            )));
        }
        place::check_removal(&config.path, config.uuid)?;
        // The tree may be gone already after a deletion that failed.
        if !force && !self.store().has_intent(name, Kind::Remove)? {
            place::check_presence(&config.path)?;
        }
        let removal = Removal {
            connection: config.connection.clone(),
            uuid: config.uuid,
            tree: Some(config.path.clone()),
            image: config.image_file(),
            registered: true,
        };
        self.store().begin(name, Intent::Remove(removal.clone()))?;
        self.host().remove(name, &removal, self.hypervisor()?)
    }
}

impl Sandboxes {
    /// Removes everything of a sandbox that `removal` lists, as far as it exists.
    ///
    /// # Errors
    /// Everything that cannot be removed, or belongs to another sandbox. It is tried again by the next command.
    pub(in crate::service) fn remove(
        &self,
        name: &SandboxName,
        removal: &Removal,
        hypervisor: &dyn Hypervisor,
    ) -> Result<()> {
        if removal.registered {
            // Nothing may run in the tree when it is removed.
            hypervisor.destroy(name.as_str())?;
            hypervisor.undefine(name.as_str())?;
            host_unit::remove(name, &self.store)?;
            apparmor::unload(&removal.uuid);
            self.store.unlink_journal(removal.uuid);
            cgroup::remove(name);
        }
        if let Some(tree) = &removal.tree {
            selinux::forget(tree);
            if let Some(image) = &removal.image {
                place::remove_image(tree, image, removal.uuid)?;
            }
            place::remove(tree, removal.uuid)?;
            self.remove_base(tree);
        }
        self.store.delete(name)
    }

    /// Removes the directory of all trees if it is empty and does not belong to a package.
    fn remove_base(&self, tree: &Path) {
        let base = &self.store.trees;
        let is_last = tree.parent() == Some(base)
            && std::fs::read_dir(base).is_ok_and(|mut entries| entries.next().is_none());
        let is_shipped = || {
            let database = package::open(&self.root).ok().flatten();
            database.is_some_and(|database| {
                database.owners(base).is_ok_and(|owners| !owners.is_empty())
            })
        };
        if is_last && !is_shipped() {
            let _ = std::fs::remove_dir(base);
        }
    }
}
