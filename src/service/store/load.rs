//! Configurations of sandboxes, each of which has to be that of the sandbox whose directory it is in.

use std::path::Path;

use super::Store;
use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::sys::file::lock::Lock;

impl Store {
    /// Reads the configuration of a sandbox.
    ///
    /// # Errors
    /// Where there is no such sandbox (the message names those there are), or its file is not right, or another sandbox's.
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

    /// Reads the configuration of a sandbox that is to be stopped: where its file is broken, the one that it was started with.
    ///
    /// # Errors
    /// Where [`load`](Self::load) fails, and the configuration from the start cannot be read either.
    pub fn load_for_stop(&self, name: &SandboxName) -> Result<SandboxConfig> {
        self.load(name)
            .or_else(|error| read(name, &self.started(name)).map_err(|_| error))
    }

    /// Takes the lock of a sandbox that is to be stopped, as long as [`load_for_stop`](Self::load_for_stop) finds it.
    pub(in crate::service) fn lock_for_stop(&self, name: &SandboxName) -> Result<Lock> {
        self.lock_if(name, || self.load_for_stop(name).map(drop))
    }
}

/// The configuration of a sandbox in one of its files. Under another name, it would be another sandbox that is changed.
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
