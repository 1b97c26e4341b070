//! Loading of configurations, each of which must belong to the sandbox whose directory it is in.

use std::path::Path;

use super::Store;
use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::sys::file::lock::Lock;

impl Store {
    /// Reads the configuration of a sandbox.
    ///
    /// # Errors
    /// There is no such sandbox (the message lists the existing ones), or its file is invalid or belongs to another sandbox.
    pub fn load(&self, name: &SandboxName) -> Result<SandboxConfig> {
        self.must_exist(name)?;
        read(name, &self.config(name)).map_err(|error| {
            let Error::Config { path, reason } = error else {
                return error;
            };
            Error::Config {
                path,
                reason: format!("{reason}\nmend it with 'virt-sandbox-service edit {name}'"),
            }
        })
    }

    /// Reads the configuration of a sandbox that is to be stopped or deleted; if the file is broken, the one that it was
    /// started or created with.
    ///
    /// # Errors
    /// [`load`](Self::load) fails, and no copy can be read either.
    pub fn load_for_stop(&self, name: &SandboxName) -> Result<SandboxConfig> {
        self.load(name).or_else(|error| {
            if SandboxConfig::load(&self.config(name)).is_ok() {
                // The file can be read, and is that of another sandbox: which of the two is meant is not guessed.
                return Err(error);
            }
            self.load_copy(name).ok_or(error)
        })
    }

    /// Reads the configuration that a sandbox was started or created with, whatever its file says now; `None` if there is no
    /// copy.
    pub(in crate::service) fn load_copy(&self, name: &SandboxName) -> Option<SandboxConfig> {
        let copies = [self.started(name), self.created(name)];
        copies.iter().find_map(|copy| read(name, copy).ok())
    }

    /// Takes the lock of a sandbox that is to be stopped; retries as long as [`load_for_stop`](Self::load_for_stop) finds it.
    pub(in crate::service) fn lock_for_stop(&self, name: &SandboxName) -> Result<Lock> {
        self.lock_if(name, || self.load_for_stop(name).map(drop))
    }
}

/// Reads a configuration from a file and checks its name: with another name, another sandbox would be changed.
fn read(name: &SandboxName, path: &Path) -> Result<SandboxConfig> {
    let config = SandboxConfig::load(path)?;
    if config.name == *name {
        return Ok(config);
    }
    Err(Error::Config {
        path: path.to_owned(),
        reason: format!(
            "'name' is '{}', and the directory is that of '{name}'; write name = \"{name}\" there ('virt-sandbox-service rename' gives \
             a sandbox another name)",
            config.name
        ),
    })
}
