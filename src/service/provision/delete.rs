//! Deletion of a sandbox.

use std::path::Path;

use crate::error::{Error, Result};
use crate::facts::package;
use crate::host::cgroup;
use crate::hypervisor::Hypervisor;
use crate::label::{apparmor, selinux};
use crate::service::host_unit;
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Removal;
use crate::tree::place;

impl Sandbox<'_> {
    /// Deletes the sandbox as [`LockedSandbox::delete`] does. With `force`, a running one is stopped first.
    ///
    /// # Errors
    /// Errors of [`LockedSandbox::delete`].
    pub fn delete(&self, force: bool) -> Result<()> {
        if force {
            // If the deletion is refused, the sandbox runs on.
            place::check_removal(&self.config().path, self.config().uuid)?;
            self.stop()?;
        }
        self.lock_for_stop()?.delete()
    }
}

impl LockedSandbox<'_> {
    /// Deletes the sandbox with all its files.
    ///
    /// # Errors
    /// The sandbox runs, its tree belongs to another one, or libvirt does not answer.
    pub fn delete(self) -> Result<()> {
        let (name, config) = (self.name(), self.config());
        if self.state()?.is_active() {
            return Err(Error::running(format!(
                "the sandbox '{name}' is running; stop it with 'virt-sandbox-service stop {name}', or use --force"
            )));
        }
        place::check_removal(&config.path, config.uuid)?;
        let removal = Removal {
            name: name.clone(),
            connection: config.connection.clone(),
            uuid: config.uuid,
            tree: Some(config.path.clone()),
            image: config.image_file(),
            registered: true,
        };
        self.store().note_removal(&removal)?;
        self.host().carry_out_removal(&removal, self.hypervisor()?)
    }
}

impl Sandboxes {
    /// Removes everything of a sandbox that `removal` lists, as far as it exists.
    ///
    /// # Errors
    /// libvirt refuses, or the tree belongs to another sandbox; the rest can be removed later.
    pub(in crate::service) fn carry_out_removal(
        &self,
        removal: &Removal,
        hypervisor: &dyn Hypervisor,
    ) -> Result<()> {
        let name = &removal.name;
        if removal.registered {
            hypervisor.destroy(name.as_str())?;
            hypervisor.undefine(name.as_str())?;
            host_unit::remove(name, &self.store);
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
        self.store.delete(name);
        Ok(())
    }

    /// Removes the directory of all trees if it is empty and does not belong to a package.
    fn remove_base(&self, tree: &Path) {
        let base = &self.store.trees;
        let is_last = tree.parent() == Some(base)
            && std::fs::read_dir(base).is_ok_and(|mut entries| entries.next().is_none());
        let is_shipped = || {
            let database = package::open(Path::new("/")).ok().flatten();
            database.is_some_and(|database| {
                database.owners(base).is_ok_and(|owners| !owners.is_empty())
            })
        };
        if is_last && !is_shipped() {
            let _ = std::fs::remove_dir(base);
        }
    }
}
