//! Another name for a sandbox.
//!
//! All is checked before the first change. Then a note is written, and the directory of the sandbox is renamed, which takes the
//! new name; from then on whoever finds the note finishes, one step after the other, each of which may have been done already.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Hostname, SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::host;
use crate::host::cgroup;
use crate::hypervisor::Hypervisor;
use crate::label::selinux;
use crate::service::provision::identity::Renewal;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::remove_tree;
use crate::sys::file::{atomic, rename};
use crate::tree::place;

/// Name of the note in the sandbox's directory.
pub(in crate::service) const NOTE: &str = "renaming.json";

/// What a rename is about to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Renaming {
    /// The sandbox as it was.
    old: SandboxConfig,
    /// The sandbox as it will be.
    new: SandboxConfig,
    /// Whether the host's systemd starts it at boot.
    enabled: bool,
}

impl Sandboxes {
    /// Renames a sandbox that is stopped.
    ///
    /// # Errors
    /// Where there is no such sandbox, it runs, or the new name is taken. Once it has begun, the next command finishes it.
    pub fn rename(&self, old: &SandboxName, new: &SandboxName) -> Result<()> {
        self.store.load(old)?;
        self.check_name(new)?;
        let (lock, config) = self.store.lock_with_tree(old)?;
        let hypervisor = self.hypervisor(&config)?;
        if hypervisor.state(old.as_str())?.is_active() {
            return Err(Error::running(format!(
                "the sandbox '{old}' is running; stop it with 'virt-sandbox-service stop {old}'"
            )));
        }
        self.check_not_upgrading(old)?;
        self.check_domain(new, &hypervisor)?;
        let config_after = renamed(&config, new)?;
        if config_after.path != config.path {
            place::check_image(&config_after)?;
        }
        let renaming = Renaming {
            new: config_after,
            enabled: self.store.is_enabled(old),
            old: config,
        };
        let note = self.store.dir(old).join(NOTE);
        let text = serde_json::to_vec(&renaming).map_err(Error::step("noting a new name"))?;
        atomic::write(&note, &text, 0o600)?;
        if let Err(error) = rename::no_replace(&self.store.dir(old), &self.store.dir(new)) {
            let _ = fs::remove_file(&note);
            self.store.check_free(new)?;
            return Err(Error::io("renaming", &self.store.dir(old))(error));
        }
        self.finish_rename(&renaming, &hypervisor)?;
        drop(lock);
        Ok(())
    }

    /// Refuses a sandbox whose tree an upgrade is at work in.
    pub(in crate::service) fn check_not_upgrading(&self, name: &SandboxName) -> Result<()> {
        match self.store.upgrade(name).is_dir() {
            true => Err(Error::busy(format!(
                "the sandbox '{name}' is being upgraded; try again when that is done"
            ))),
            false => Ok(()),
        }
    }

    /// Finishes what killed renames have begun.
    ///
    /// # Errors
    /// Where the sandboxes cannot be listed.
    pub(in crate::service) fn finish_renames(&self) -> Result<()> {
        for (name, lock) in self.store.abandoned(NOTE)? {
            let note = self.store.dir(&name).join(NOTE);
            let finished = fs::read(&note)
                .map_err(Error::io("reading", &note))
                .and_then(|text| {
                    serde_json::from_slice::<Renaming>(&text)
                        .map_err(Error::step(format!("reading '{}'", note.display())))
                })
                .and_then(|renaming| {
                    if ![&renaming.old.name, &renaming.new.name].contains(&&name) {
                        return Err(Error::refused(format!(
                            "'{}' is about '{}' and '{}'; remove it",
                            note.display(),
                            renaming.old.name,
                            renaming.new.name
                        )));
                    }
                    if renaming.old.name == name {
                        // Nothing was done yet.
                        return fs::remove_file(&note).map_err(Error::io("removing", &note));
                    }
                    log::info!(
                        "finishing the interrupted renaming of '{}' to '{name}'",
                        renaming.old.name
                    );
                    self.finish_rename(&renaming, &self.hypervisor(&renaming.new)?)
                });
            if let Err(error) = finished {
                log::warn!("finishing the renaming to '{name}': {error}");
            }
            drop(lock);
        }
        Ok(())
    }

    /// Does all that follows from the directory's new name. Each step may have been done before.
    fn finish_rename(&self, renaming: &Renaming, hypervisor: &dyn Hypervisor) -> Result<()> {
        let Renaming { old, new, enabled } = renaming;
        // The old name may be somebody else's by now.
        if self.store.check_free(&old.name).is_ok() {
            hypervisor.undefine(old.name.as_str())?;
            self.remove_unit(&old.name);
            cgroup::remove(&old.name);
            remove_tree(&self.store.stage(&old.name));
        }
        if old.path != new.path {
            selinux::forget(&old.path);
        }
        place::rename(&old.path, &new.path, new.uuid)?;
        if let (Some(from), Some(to)) = (old.image_file(), new.image_file()) {
            place::rename_image(&from, &to)?;
        }
        let mut provenance = self.recorded(&new.name)?;
        let tree = self.tree(new)?;
        Renewal::new(old, new)?.write(tree.path(), &mut provenance.manifest)?;
        tree.settle()?;
        drop(tree);
        provenance.save(&self.store, &new.name)?;
        new.save(&self.store.config(&new.name))?;
        self.render(new, hypervisor)?;
        // It tells of the old name.
        self.forget_failure(&new.name)?;
        if *enabled {
            self.systemctl(&["enable", "--quiet", &new.name.unit()]);
        }
        let note = self.store.dir(&new.name).join(NOTE);
        fs::remove_file(&note).map_err(Error::io("removing", &note))
    }
}

/// The sandbox under its new name, with what was derived from the old one: its host name, and the place of its tree.
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
    // A filesystem of its own cannot be moved by its name.
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
    fn only_what_came_from_the_name_follows_it() {
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
