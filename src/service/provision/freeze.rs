//! Freeze of a sandbox while its tree is read.

use std::path::Path;

use crate::error::{Error, Result};
use crate::hypervisor::DomainState;
use crate::service::image::{self, Tree};
use crate::service::journal::{Intent, Kind};
use crate::service::sandbox::{LockedSandbox, Sandbox};

/// Guard that keeps a sandbox from running: the sandbox is stopped, was frozen before, or is frozen by the guard and runs
/// on after the drop. The caller must hold its lock.
#[derive(Debug)]
pub(in crate::service) struct FreezeGuard<'s> {
    sandbox: &'s Sandbox<'s>,
    is_active: bool,
    thaws: bool,
}

impl<'s> FreezeGuard<'s> {
    /// Freezes the sandbox if it runs; `what` names the operation for messages.
    ///
    /// # Errors
    /// The sandbox runs and cannot be frozen; the message says what to do.
    pub(in crate::service) fn new(sandbox: &'s LockedSandbox<'s>, what: &str) -> Result<Self> {
        let name = sandbox.name();
        let state = sandbox.state()?;
        let mut guard = Self {
            sandbox,
            is_active: state.is_active(),
            thaws: false,
        };
        match state {
            DomainState::Missing | DomainState::Stopped | DomainState::Frozen { .. } => {}
            state @ DomainState::Running { .. } => {
                if let Some(guest) = sandbox.guest_in(state)?
                    && let Err(error) = guest.sync()
                {
                    log::warn!("syncing the files of '{name}': {error}");
                }
                sandbox.store().begin(name, Intent::Freeze)?;
                let frozen = sandbox.hypervisor()?.freeze(name.as_str());
                // Thaw in any case from now on: the freeze may have been interrupted.
                guard.thaws = true;
                frozen.map_err(|error| {
                    Error::unsupported(format!(
                        "{what} '{name}' while it runs needs it frozen, which libvirt cannot do here ({error}); stop it first \
                         with 'virt-sandbox-service stop {name}'"
                    ))
                })?;
            }
        }
        Ok(guard)
    }

    /// Returns true if the sandbox runs apart from the freeze.
    pub(in crate::service) fn is_active(&self) -> bool {
        self.is_active
    }
}

impl Drop for FreezeGuard<'_> {
    fn drop(&mut self) {
        // The next command tries again.
        if self.thaws
            && let Err(error) = self.sandbox.thaw()
        {
            log::warn!("'{}' is still frozen: {error}", self.sandbox.name());
        }
    }
}

/// Tree of a sandbox that does not change while it is read.
#[derive(Debug)]
pub(in crate::service) struct FrozenTree<'s> {
    tree: Tree,
    /// `None` if the tree is a copy, so that the sandbox runs on already.
    _guard: Option<FreezeGuard<'s>>,
}

impl<'s> FrozenTree<'s> {
    /// Freezes the tree of a sandbox; `what` names the operation for messages. A tree that another kernel has mounted is copied first.
    ///
    /// # Errors
    /// Errors of [`FreezeGuard::new`]; the tree cannot be opened, or there is no space for its copy.
    pub(in crate::service) fn new(sandbox: &'s LockedSandbox<'s>, what: &str) -> Result<Self> {
        let guard = FreezeGuard::new(sandbox, what)?;
        let config = sandbox.config();
        match config.image {
            Some(image) if guard.is_active && sandbox.driver()?.has_own_kernel() => {
                let copy = tempfile::tempfile_in(&config.path)
                    .map_err(Error::io("making a file in", &config.path))?;
                let cancelled = || sandbox.host().is_cancelled();
                image::copy_to(config, image, &copy, &cancelled)?;
                drop(guard);
                Ok(Self {
                    tree: image::open_copy(image, &copy, &sandbox.stage())?,
                    _guard: None,
                })
            }
            Some(_) | None => Ok(Self {
                tree: sandbox.tree()?,
                _guard: Some(guard),
            }),
        }
    }

    /// Returns its top.
    pub(in crate::service) fn path(&self) -> &Path {
        self.tree.path()
    }
}

impl Sandbox<'_> {
    /// Lets a frozen sandbox run on.
    pub(in crate::service) fn thaw(&self) -> Result<()> {
        let name = self.name();
        self.hypervisor()?.thaw(name.as_str())?;
        if let Some(guest) = self.guest()?
            && let Err(error) = guest.set_clock()
        {
            log::warn!("setting the clock of '{name}': {error}");
        }
        self.store().end(name, Kind::Freeze)
    }
}
