//! Edit of a sandbox's configuration by hand.

use crate::config::sandbox::LONGEST;
use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::host::Inventory;
use crate::service::provision::check_words;
use crate::service::provision::create::check_mounts;
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::service::{host_unit, preflight};
use crate::sys::file::{atomic, bounded_read};
use crate::tree::place;

impl Sandboxes {
    /// Returns the text of a sandbox's configuration, even an invalid one.
    ///
    /// # Errors
    /// There is no such sandbox.
    pub fn configuration(&self, name: &SandboxName) -> Result<String> {
        self.store.must_exist(name)?;
        let path = self.store.config(name);
        bounded_read::regular_file(&path, LONGEST).map_err(Error::io("reading", &path))
    }

    /// Replaces the text `before` of a sandbox's configuration by `text`, verbatim with its comments. Derived files
    /// change at the next start; returns true if the sandbox runs and must be restarted for that.
    ///
    /// # Errors
    /// The new text is not a configuration of this very sandbox, libvirt refuses it, or another command has changed the file since
    /// `before` was read. Nothing is changed then.
    pub fn edit(&self, name: &SandboxName, before: &str, text: &str) -> Result<bool> {
        let lock = self.store.lock(name)?;
        let path = self.store.config(name);
        if self.configuration(name)? != before {
            return Err(Error::busy(format!(
                "'{}' was changed by another command meanwhile; nothing of yours was kept, edit it again",
                path.display()
            )));
        }
        let config = SandboxConfig::parse(text, &path)?;
        check_words(&config).map_err(Error::config(&path))?;
        let old = SandboxConfig::parse(before, &path).ok();
        check_identity(name, old.as_ref(), &config).map_err(Error::config(&path))?;
        check_mounts(&config.mounts)?;
        let added = added_units(old.as_ref(), &config);
        if let Some(unit) = preflight::missing_unit(&self.root, &config, &added)? {
            return Err(Error::config(&path)(format!(
                "'units': neither this host nor the sandbox's tree has '{unit}'; 'systemctl list-unit-files' lists the host's"
            )));
        }
        let mut sandbox = Sandbox::new(self, config).locked_by(lock);
        let config = sandbox.config();
        let driver = sandbox.driver()?;
        driver.check(config)?;
        Inventory::probe(&self.root)
            .check(&config.resources, &config.networks)
            .map_err(Error::config(&path))?;
        sandbox.check_networks()?;
        let runs = sandbox.state()?.is_active();
        let is_renamed = old
            .as_ref()
            .is_some_and(|old| old.hostname != config.hostname);
        if runs && is_renamed && config.image.is_some() && driver.has_own_kernel() {
            return Err(Error::config(&path)(format!(
                "'hostname' is written into the tree, which '{name}' has to itself while it runs; stop it first with \
                 'virt-sandbox-service stop {name}'"
            )));
        }
        if runs {
            // A running sandbox keeps its domain and staging root.
            host_unit::write(config, &self.store)?;
        } else if let Err(error) = sandbox.render() {
            if let Some(old) = old {
                sandbox.replace_config(old);
                if let Err(second) = sandbox.render() {
                    log::warn!("restoring the files of the earlier configuration: {second}");
                }
            }
            return Err(error);
        }
        atomic::write(&path, text.as_bytes(), 0o600)?;
        if let Some(old) = old {
            sandbox.follow_change(&old)?;
        }
        Ok(runs)
    }
}

impl LockedSandbox<'_> {
    /// Updates everything that depends on the configuration, formerly `old`.
    fn follow_change(&self, old: &SandboxConfig) -> Result<()> {
        let (name, config) = (self.name(), self.config());
        if old.hostname != config.hostname {
            self.renew_tree(old)?;
        }
        for unit in added_units(Some(old), config) {
            log::warn!(
                "'{unit}' was not there when '{name}' was made: what it has on the host is not in its tree; 'virt-sandbox-service upgrade {name}' brings it there"
            );
        }
        Ok(())
    }
}

/// Returns the added units.
fn added_units(old: Option<&SandboxConfig>, new: &SandboxConfig) -> Vec<String> {
    let before = old.map(SandboxConfig::units).unwrap_or_default();
    let units = new.units().iter();
    units
        .filter(|unit| !before.contains(unit))
        .cloned()
        .collect()
}

/// Checks that a changed configuration still belongs to the same sandbox.
fn check_identity(
    name: &SandboxName,
    old: Option<&SandboxConfig>,
    new: &SandboxConfig,
) -> Result<()> {
    if new.name != *name {
        return Err(Error::refused(format!(
            "'name' is not changed by hand; use 'virt-sandbox-service rename {name} {}'",
            new.name
        )));
    }
    let differs = |key: &str, change: &str| {
        Error::refused(format!("'{key}' is not changed by hand: {change}"))
    };
    if let Some(old) = old {
        if new.uuid != old.uuid {
            return Err(differs(
                "uuid",
                "it is what the sandbox's tree and domain are known by",
            ));
        }
        if new.path != old.path {
            return Err(differs(
                "path",
                "clone the sandbox with --path to have its tree elsewhere",
            ));
        }
        if new.image != old.image {
            return Err(differs(
                "image",
                "make another sandbox with the image that is wanted",
            ));
        }
        if new.connection != old.connection {
            return Err(differs(
                "connection",
                "export the sandbox, delete it, and import it with -c",
            ));
        }
    }
    if !place::is_of(&new.path, new.uuid) {
        return Err(Error::refused(format!(
            "'{}' is not the tree of the sandbox {}",
            new.path.display(),
            new.uuid
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_sandbox_is_stays() {
        let dir = tempfile::tempdir().unwrap();
        let old = SandboxConfig {
            path: dir.path().join("web1"),
            ..SandboxConfig::example()
        };
        place::make(&old.path, old.uuid).unwrap();
        let check = |new: &SandboxConfig| check_identity(&old.name, Some(&old), new);
        let longer = SandboxConfig {
            timeout: 200,
            ..old.clone()
        };
        check(&longer).unwrap();
        for (change, said) in [
            (
                SandboxConfig {
                    name: "web2".parse().unwrap(),
                    ..old.clone()
                },
                "rename web1 web2",
            ),
            (
                SandboxConfig {
                    uuid: uuid::Uuid::from_u128(8),
                    ..old.clone()
                },
                "'uuid'",
            ),
            (
                SandboxConfig {
                    path: "/srv/web1".into(),
                    ..old.clone()
                },
                "'path'",
            ),
            (
                SandboxConfig {
                    connection: "lxc:///system".into(),
                    ..old.clone()
                },
                "'connection'",
            ),
        ] {
            let reason = check(&change).unwrap_err().to_string();
            assert!(reason.contains(said), "{reason}");
            // If the old file was invalid, the mark of the tree decides.
            if change.uuid != old.uuid || change.path != old.path {
                assert!(check_identity(&old.name, None, &change).is_err());
            }
        }
    }
}
