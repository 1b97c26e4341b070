//! Changes of limits, in the configuration and, if possible, in the running sandbox.

use std::fs;
use std::path::Path;

use crate::config::{Change, SandboxConfig};
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::host::Inventory;
use crate::service::sandbox::LockedSandbox;
use crate::sys::file::atomic;

impl LockedSandbox<'_> {
    /// Changes limits of the sandbox. Returns those that only apply from the next start, with the reason.
    ///
    /// # Errors
    /// The limits are invalid; nothing is changed then.
    pub fn set(&mut self, changes: &[Change]) -> Result<Vec<(String, String)>> {
        let mut config = self.config().clone();
        let changed = config.resources.with_changes(changes);
        let before = std::mem::replace(
            &mut config.resources,
            changed.map_err(|error| Error::refused(error.to_string()))?,
        );
        config.check()?;
        self.driver()?.check(&config)?;
        Inventory::probe(Path::new("/")).check(&config.resources, &config.networks)?;
        let differing = before.differing_keys(&config.resources);
        // If libvirt does not answer, nothing is changed.
        self.hypervisor()?;
        let path = self.store().config(self.name());
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        let written = config.resources.write_into(&text, &differing);
        let text = written.map_err(|error| Error::refused(error.to_string()))?;
        atomic::write(&path, text.as_bytes(), 0o600)?;
        self.replace_config(config);
        let Some(guest) = self.guest()? else {
            return Ok(vec![]);
        };
        let mut later = Vec::new();
        for key in differing {
            if let Err(error) = self.apply_limit(&key, &*guest) {
                later.push((key, error.chain()));
            }
        }
        if later.is_empty() {
            self.note_limits()?;
        }
        Ok(later)
    }

    /// Notes that a running sandbox has the configured limits, so that an upgrade does not restart it for them.
    fn note_limits(&self) -> Result<()> {
        let started = self.store().started(self.name());
        match SandboxConfig::load(&started) {
            Ok(before) => SandboxConfig {
                resources: self.config().resources.clone(),
                ..before
            }
            .save(&started),
            // Without this file the sandbox needs a restart anyway.
            Err(_) => Ok(()),
        }
    }

    /// Applies a configured limit to the running guest; returns the reason if that is impossible.
    fn apply_limit(&self, key: &str, guest: &dyn Guest) -> Result<()> {
        let resources = &self.config().resources;
        let driver = self.driver()?;
        let Some(limit) = driver.limit(resources, key) else {
            return match key {
                "pids" => guest.limit_processes(driver.pids(resources)),
                _ => Err(Error::refused(
                    "it cannot be changed while the sandbox runs",
                )),
            };
        };
        guest.check_limit(&limit)?;
        self.hypervisor()?.limit(self.name().as_str(), &limit)?;
        guest.apply_limit(&limit)
    }
}
