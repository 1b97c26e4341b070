//! Configurations of sandboxes, each of which has to be that of the sandbox whose directory it is in.

use std::path::Path;

use super::Store;
use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::sys::file::lock::Lock;
use crate::tree::place;

impl Store {
    /// The configuration of a sandbox.
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

    /// The configuration of a sandbox that is to end: where its file is of no use any more, the one that it was started with.
    ///
    /// # Errors
    /// Where [`load`](Self::load) fails, and the configuration from the start cannot be read either.
    pub fn load_to_end(&self, name: &SandboxName) -> Result<SandboxConfig> {
        self.load(name)
            .or_else(|error| read(name, &self.started(name)).map_err(|_| error))
    }

    /// Takes the lock of a sandbox that is to end, and reads its configuration with [`load_to_end`](Self::load_to_end).
    ///
    /// # Errors
    /// Where [`load_to_end`](Self::load_to_end) fails, also once the lock is free.
    pub(in crate::service) fn lock_to_end(
        &self,
        name: &SandboxName,
    ) -> Result<(Lock, SandboxConfig)> {
        let lock = self.lock_if(name, || self.load_to_end(name).map(drop))?;
        Ok((lock, self.load_to_end(name)?))
    }

    /// Takes the lock of a sandbox for work on its tree, and reads its configuration. The tree has to be the sandbox's own.
    ///
    /// # Errors
    /// Where [`lock`](Self::lock) fails, or the tree is not there, has no mark of the sandbox, or has a link in the place of a
    /// directory that the sandbox is given.
    pub(in crate::service) fn lock_with_tree(
        &self,
        name: &SandboxName,
    ) -> Result<(Lock, SandboxConfig)> {
        let (lock, config) = self.lock(name)?;
        place::must_be_of(&config.path, config.uuid)?;
        Ok((lock, config))
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
