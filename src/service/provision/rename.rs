//! Rename of a sandbox.
//!
//! All checks come before the first change. Then the intent is written and the directory of the sandbox is renamed, which reserves the
//! new name. From then on the next command finishes the rename; every step may be repeated.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Hostname, SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::host::{self, cgroup};
use crate::label::selinux;
use crate::service::base::Provenance;
use crate::service::host_unit;
use crate::service::journal::{Intent, Kind, Renaming};
use crate::service::provision::check_domain;
use crate::service::provision::identity::Renewal;
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::sys::file::lock::Lock;
use crate::sys::file::{remove, rename};
use crate::tree::place;

impl Sandbox<'_> {
    /// Renames a stopped sandbox.
    ///
    /// # Errors
    /// The sandbox runs, or the new name is taken. After an interruption, the next command finishes the rename.
    pub fn rename(&self, new: &SandboxName) -> Result<()> {
        self.host().check_name(new)?;
        self.lock()?.rename(new)
    }
}

impl LockedSandbox<'_> {
    fn rename(mut self, new: &SandboxName) -> Result<()> {
        self.check_tree()?;
        self.check_stopped()?;
        self.check_not_upgrading()?;
        check_domain(new, self.hypervisor()?)?;
        let config = renamed(self.config(), new)?;
        if config.path != self.config().path {
            place::check_image(&config)?;
        }
        let (store, old) = (self.store(), self.name().clone());
        let renaming = Renaming {
            old: self.config().clone(),
            new: config,
            enabled: store.is_enabled(&old),
        };
        store.begin(&old, Intent::Rename(Box::new(renaming.clone())))?;
        if let Err(error) = rename::no_replace(&store.dir(&old), &store.dir(new)) {
            store.end(&old, Kind::Rename)?;
            store.check_free(new)?;
            return Err(Error::io("renaming", &store.dir(&old))(error));
        }
        self.finish_rename(renaming)
    }

    /// Does all steps after the rename of the directory. Each may have been done before.
    fn finish_rename(&mut self, renaming: Renaming) -> Result<()> {
        let Renaming { old, new, enabled } = renaming;
        self.replace_config(new);
        let (store, new, hypervisor) = (self.store(), self.config(), self.hypervisor()?);
        // The old name may belong to a new sandbox by now.
        if store.check_free(&old.name).is_ok() {
            hypervisor.undefine(old.name.as_str())?;
            host_unit::remove(&old.name, store)?;
            cgroup::remove(&old.name);
            let stage = store.stage(&old.name);
            remove::any(&stage).map_err(Error::io("removing", &stage))?;
        }
        if old.path != new.path {
            selinux::forget(&old.path);
        }
        place::rename(&old.path, &new.path, new.uuid)?;
        if let (Some(from), Some(to)) = (old.image_file(), new.image_file()) {
            place::rename_image(&from, &to)?;
        }
        self.renew_tree(&old)?;
        for copy in [store.created(&new.name), store.config(&new.name)] {
            new.save(&copy)?;
        }
        self.render()?;
        // The failure mentions the old name.
        store.forget_failure(&new.name)?;
        if enabled {
            host_unit::systemctl(&["enable", "--quiet", &new.name.unit()]);
        }
        store.end(&new.name, Kind::Rename)
    }

    /// Writes the new identity of the sandbox, formerly `old`, into its tree and its records.
    pub(in crate::service) fn renew_tree(&self, old: &SandboxConfig) -> Result<()> {
        let mut provenance = Provenance::load(self.store(), self.name())?;
        let tree = self.tree()?;
        place::sweep(tree.path())?;
        let rewrites =
            Renewal::new(old, self.config())?.plan(tree.path(), &mut provenance.manifest)?;
        // Not later: after an interruption, files would count as changed in the sandbox.
        provenance.save(self.store(), self.name())?;
        for rewrite in rewrites {
            rewrite.apply(tree.path())?;
        }
        tree.sync()
    }
}

impl Sandboxes {
    /// Finishes an interrupted rename of the sandbox whose directory is called `name`, or drops it.
    ///
    /// # Errors
    /// A step fails, or the rename is one of other sandboxes.
    pub(in crate::service) fn resume_rename(
        &self,
        name: &SandboxName,
        renaming: Renaming,
        lock: Arc<Lock>,
    ) -> Result<()> {
        if renaming.old.name == *name {
            // The directory was not renamed yet.
            return self.store.end(name, Kind::Rename);
        }
        if renaming.new.name != *name {
            return Err(Error::refused(format!(
                "'{}' is about '{}' and '{}'; remove it",
                self.store.journal(name).display(),
                renaming.old.name,
                renaming.new.name
            )));
        }
        let sandbox = Sandbox::new(self, renaming.new.clone());
        sandbox.locked_by(lock).finish_rename(renaming)
    }
}

/// Returns the configuration with the new name, and with a host name and a tree path derived from it.
fn renamed(old: &SandboxConfig, name: &SandboxName) -> Result<SandboxConfig> {
    let hostname = if old.hostname == Hostname::of(&old.name).as_str() {
        Hostname::of(name).to_string()
    } else {
        old.hostname.clone()
    };
    Ok(SandboxConfig {
        name: name.clone(),
        path: place_of(old, name)?,
        hostname,
        ..old.clone()
    })
}

fn place_of(old: &SandboxConfig, name: &SandboxName) -> Result<PathBuf> {
    let Some(base) = old
        .path
        .parent()
        .filter(|_| old.path.ends_with(old.name.as_str()))
    else {
        return Ok(old.path.clone());
    };
    // A mount point cannot be renamed.
    if host::mount_points()?.contains(&old.path) {
        log::warn!(
            "'{}' is a mount point: the tree stays there",
            old.path.display()
        );
        return Ok(old.path.clone());
    }
    let path = base.join(name.as_str());
    if path.symlink_metadata().is_ok() {
        return Err(Error::exists(format!(
            "'{}', where the tree would go, is there already; move it away, or choose another name",
            path.display()
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_values_derived_from_the_name_change() {
        let old = SandboxConfig::example();
        let new = renamed(&old, &"db_1".parse().unwrap()).unwrap();
        assert_eq!(new.hostname, "db-1");
        assert_eq!(new.path, Path::new("/var/lib/libvirt/filesystems/db_1"));
        assert_eq!(new.uuid, old.uuid);
        let old = SandboxConfig {
            hostname: "www".into(),
            path: "/srv/elsewhere".into(),
            ..old
        };
        let new = renamed(&old, &"db".parse().unwrap()).unwrap();
        assert_eq!(new.hostname, "www");
        assert_eq!(new.path, Path::new("/srv/elsewhere"));
    }
}
