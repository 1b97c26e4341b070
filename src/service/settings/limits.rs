//! Limits of a sandbox, changed in its configuration, and at once where it runs and they can be.

use std::fs;

use crate::config::{Change, SandboxConfig, SandboxName};
use crate::driver::{Driver, Guest};
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;
use crate::service::sandboxes::Sandboxes;
use crate::sys::file::atomic;

impl Sandboxes {
    /// Changes limits of a sandbox. Gives those that a running one has only from its next start on, with the reason.
    ///
    /// # Errors
    /// Where there is no such sandbox, or it cannot have such limits; nothing is changed then.
    pub fn set(&self, name: &SandboxName, changes: &[Change]) -> Result<Vec<(String, String)>> {
        let (_lock, mut config) = self.store.lock(name)?;
        let changed = config.resources.with_changes(changes);
        let before = std::mem::replace(
            &mut config.resources,
            changed.map_err(|error| Error::refused(error.to_string()))?,
        );
        config.check()?;
        let driver = Driver::of_service(&config.connection)?;
        driver.check(&config)?;
        let differing = before.differing_keys(&config.resources);
        let hypervisor = self.hypervisor(&config)?;
        let path = self.store.config(name);
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        let written = config.resources.write_into(&text, &differing);
        let text = written.map_err(|error| Error::refused(error.to_string()))?;
        atomic::write(&path, text.as_bytes(), 0o600)?;
        let Some(inside) = self.guest(&config, &hypervisor)? else {
            return Ok(vec![]);
        };
        let mut later = Vec::new();
        for key in differing {
            if let Err(error) = apply(&config, &key, (driver, &*inside), &hypervisor) {
                later.push((key, error.chain()));
            }
        }
        if later.is_empty() {
            self.note_limits(&config)?;
        }
        Ok(later)
    }

    /// Notes that a running sandbox has the limits of its configuration, so that an upgrade does not restart it for them.
    fn note_limits(&self, config: &SandboxConfig) -> Result<()> {
        let started = self.store.started(&config.name);
        match SandboxConfig::load(&started) {
            Ok(before) => SandboxConfig {
                resources: config.resources.clone(),
                ..before
            }
            .save(&started),
            // Then it has something else to be restarted for.
            Err(_) => Ok(()),
        }
    }
}

/// Changes a limit of a running sandbox to what its configuration says now; or says why that cannot be.
fn apply(
    config: &SandboxConfig,
    key: &str,
    (driver, inside): (Driver, &dyn Guest),
    hypervisor: &dyn Hypervisor,
) -> Result<()> {
    let resources = &config.resources;
    let Some(limit) = driver.limit(resources, key) else {
        return match key {
            "pids" => inside.limit_processes(driver.pids(resources)),
            _ => Err(Error::refused(
                "it cannot be changed while the sandbox runs",
            )),
        };
    };
    inside.check_limit(&limit)?;
    hypervisor.limit(config.name.as_str(), &limit)?;
    inside.apply_limit(&limit)
}
