//! Removing a sandbox.

use std::path::Path;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::facts::package;
use crate::host::cgroup;
use crate::hypervisor::Hypervisor;
use crate::label::{apparmor, selinux};
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Removal;
use crate::tree::place;

impl Sandboxes {
    /// Removes a sandbox with all it has. With `force` one that runs is stopped first.
    ///
    /// # Errors
    /// Where there is no such sandbox, it runs, its tree is not its own any more, or libvirt does not answer.
    pub fn delete(&self, name: &SandboxName, force: bool) -> Result<()> {
        if force {
            // What is refused stays as it is, and runs on.
            let config = self.store.load_to_end(name)?;
            place::check_removal(&config.path, config.uuid)?;
            self.stop(name)?;
        }
        let (lock, config) = self.store.lock_to_end(name)?;
        let hypervisor = self.hypervisor(&config)?;
        if hypervisor.state(name.as_str())?.is_active() {
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
        self.store.note(&removal)?;
        self.remove(&removal, &hypervisor)?;
        drop(lock);
        Ok(())
    }

    /// Takes away a sandbox, as far as it is there.
    ///
    /// # Errors
    /// Where libvirt refuses, or its tree is not its own any more; what is left can be removed later.
    pub(in crate::service) fn remove(
        &self,
        removal: &Removal,
        hypervisor: &dyn Hypervisor,
    ) -> Result<()> {
        let name = &removal.name;
        if removal.registered {
            hypervisor.destroy(name.as_str())?;
            hypervisor.undefine(name.as_str())?;
            self.remove_unit(name);
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
        self.store.forget(name);
        Ok(())
    }

    /// Removes the directory of all trees with the last of them, unless it came with a package.
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
