//! A sandbox that holds still while its tree is read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::service::image::{self, Tree};
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Store;
use crate::sys::file::atomic;

/// Where it is noted that a sandbox is frozen, so that it runs on should a command not come to its end.
fn note(store: &Store, name: &SandboxName) -> PathBuf {
    store.dir(name).join(NOTE)
}

/// Name of that note.
const NOTE: &str = "frozen";

fn settle(store: &Store, name: &SandboxName) -> Result<()> {
    let note = note(store, name);
    fs::remove_file(&note).map_err(Error::io("removing", &note))
}

/// A sandbox whose processes do not run for as long as this is there: it is stopped, was frozen already, or is frozen here
/// and runs on afterwards. Its lock has to be held.
#[derive(Debug)]
pub(in crate::service) struct Still<'a> {
    is_active: bool,
    thawing: Option<Libvirt>,
    sandboxes: &'a Sandboxes,
    config: &'a SandboxConfig,
}

impl<'a> Still<'a> {
    /// Has `config` hold still; `what` is done meanwhile.
    ///
    /// # Errors
    /// Where it runs and cannot be frozen; the message says what to do.
    pub(in crate::service) fn new(
        sandboxes: &'a Sandboxes,
        config: &'a SandboxConfig,
        what: &str,
    ) -> Result<Self> {
        let hypervisor = sandboxes.hypervisor(config)?;
        let name = &config.name;
        let state = hypervisor.state(name.as_str())?;
        let mut still = Self {
            is_active: state.is_active(),
            thawing: None,
            sandboxes,
            config,
        };
        match state {
            DomainState::Missing | DomainState::Stopped | DomainState::Paused { .. } => {}
            state @ DomainState::Running { .. } => {
                if let Some(inside) = sandboxes.guest_of(config, state)?
                    && let Err(error) = inside.sync()
                {
                    log::warn!("'{name}' holds back what it has written: {error}");
                }
                // Noted first, so that it runs on also after a kill.
                atomic::write(&note(&sandboxes.store, name), b"", 0o600)?;
                let suspended = hypervisor.suspend(name.as_str());
                // From now on it is thawed whatever comes: freezing may have been cut short.
                still.thawing = Some(hypervisor);
                suspended.map_err(|error| {
                    Error::unsupported(format!(
                        "{what} '{name}' while it runs needs it frozen, which libvirt cannot do here ({error}); stop it first \
                         with 'virt-sandbox-service stop {name}'"
                    ))
                })?;
            }
        }
        Ok(still)
    }
}

impl Still<'_> {
    /// Whether it runs otherwise.
    pub(in crate::service) fn is_active(&self) -> bool {
        self.is_active
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        let Some(hypervisor) = &self.thawing else {
            return;
        };
        // The next command tries again.
        if let Err(error) = self.sandboxes.let_run_on(self.config, hypervisor) {
            log::warn!("'{}' is still frozen: {error}", self.config.name);
        }
    }
}

/// The tree of a sandbox that holds still, to be read on the host.
#[derive(Debug)]
pub(in crate::service) struct StillTree<'a> {
    tree: Tree,
    /// `None` where the tree is a copy, so that the sandbox runs on already.
    _still: Option<Still<'a>>,
}

impl<'a> StillTree<'a> {
    /// The tree of `config`, as it is now; `what` is done with it. One that another kernel has mounted is copied first.
    ///
    /// # Errors
    /// As [`Still::new`]; where the tree cannot be reached, or there is no room for its copy.
    pub(in crate::service) fn new(
        sandboxes: &'a Sandboxes,
        config: &'a SandboxConfig,
        what: &str,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let still = Still::new(sandboxes, config, what)?;
        match config.image {
            Some(image) if still.is_active && sandboxes.driver(config)?.has_own_kernel() => {
                let copy = tempfile::tempfile_in(&config.path)
                    .map_err(Error::io("making a file in", &config.path))?;
                image::copy_to(config, image, &copy, interrupted)?;
                drop(still);
                Ok(Self {
                    tree: image::open_copy(image, &copy, &sandboxes.store.stage(&config.name))?,
                    _still: None,
                })
            }
            Some(_) | None => Ok(Self {
                tree: sandboxes.tree(config)?,
                _still: Some(still),
            }),
        }
    }

    /// Its top.
    pub(in crate::service) fn path(&self) -> &Path {
        self.tree.path()
    }
}

impl Sandboxes {
    fn let_run_on(&self, config: &SandboxConfig, hypervisor: &dyn Hypervisor) -> Result<()> {
        let name = &config.name;
        hypervisor.resume(name.as_str())?;
        if let Some(inside) = self.guest(config, hypervisor)?
            && let Err(error) = inside.set_clock()
        {
            log::warn!("'{name}' was not told how long it was frozen: {error}");
        }
        settle(&self.store, name)
    }

    /// Lets sandboxes run on that a killed command has left frozen.
    ///
    /// # Errors
    /// Where the sandboxes cannot be listed.
    pub(in crate::service) fn thaw(&self) -> Result<()> {
        for (name, lock) in self.store.abandoned(NOTE)? {
            log::info!("letting '{name}' run on, which an interrupted command has left frozen");
            let thawed = self
                .store
                .load(&name)
                .and_then(|config| self.let_run_on(&config, &self.hypervisor(&config)?));
            if let Err(error) = thawed {
                log::warn!("letting '{name}' run on: {error}");
            }
            drop(lock);
        }
        Ok(())
    }
}
