//! Undo of an interrupted or failed upgrade, by the command itself or by the next one.

use std::sync::Arc;

use uuid::Uuid;

use crate::config::SandboxName;
use crate::error::{Error, ErrorKind, Result};
use crate::host;
use crate::service::journal::{Intent, Kind, UndoLog};
use crate::service::sandboxes::Sandboxes;
use crate::service::upgrade::Options;
use crate::service::upgrade::steps::Work;
use crate::service::{host_unit, image};
use crate::sys::file::lock::Lock;
use crate::sys::file::remove;
use crate::tree::place;

impl Sandboxes {
    /// Undoes an upgrade whose restart has failed, and starts the sandbox as it was before.
    pub(super) fn roll_back(
        &self,
        (name, uuid): (&SandboxName, Uuid),
        options: &Options<'_>,
        error: Error,
    ) -> Error {
        let stopped = self.get_same(name, uuid).and_then(|sandbox| sandbox.stop());
        let undone = stopped.and_then(|()| {
            let lock = self.lock_same(name, uuid)?;
            self.undo_open_upgrade(name, &lock)?;
            Ok(lock)
        });
        let started = undone.and_then(|lock| match self.is_cancelled() {
            // The user has cancelled: do not wait any longer.
            true => self.restart_abandoned(name, lock),
            false => {
                drop(lock);
                (options.start)(name)
            }
        });
        let end = match started {
            Ok(()) => format!("the upgrade of '{name}' was undone, and it runs as before"),
            Err(second) => {
                let second = second.chain();
                format!("the upgrade of '{name}' was not undone in full: {second}")
            }
        };
        if error.kind() == ErrorKind::NotReady {
            return Error::not_ready(format!("{error}\n{end}"));
        }
        log::warn!("{end}");
        error
    }

    /// Undoes the upgrade in the sandbox's journal, if there is one.
    pub(super) fn undo_open_upgrade(&self, name: &SandboxName, lock: &Arc<Lock>) -> Result<()> {
        for intent in self.store.intents(name)? {
            if let Intent::Upgrade(log) = intent {
                self.undo_upgrade(name, &log, lock)?;
            }
        }
        Ok(())
    }

    /// Undoes the upgrade of `log`, or removes the work files of a finished one.
    ///
    /// # Errors
    /// All that cannot be undone; the next command tries again.
    pub(super) fn undo_upgrade(
        &self,
        name: &SandboxName,
        log: &UndoLog,
        lock: &Arc<Lock>,
    ) -> Result<()> {
        let tree = image::open_tree_at(name, &log.tree, log.image, &self.store.stage(name))?;
        log.undo(tree.path())?;
        // The next steps may need exclusive use of the image.
        tree.sync()?;
        drop(tree);
        // The next start renders too: a failure is reported, and not tried again.
        let rendered = match log.saved.is_empty() {
            true => Ok(()),
            false => self.render_as_before(name, lock, log),
        };
        Error::of_all([rendered, self.finish_upgrade(name, log.emptied())])
    }

    /// Undoes an interrupted upgrade, and starts the sandbox again if it was being restarted.
    ///
    /// # Errors
    /// Errors of [`undo_upgrade`](Self::undo_upgrade); the sandbox does not start.
    pub(in crate::service) fn resume_upgrade(
        &self,
        name: &SandboxName,
        log: &UndoLog,
        lock: Arc<Lock>,
    ) -> Result<()> {
        self.undo_upgrade(name, log, &lock)?;
        match log.restarting {
            true => self.restart_abandoned(name, lock),
            false => Ok(()),
        }
    }

    /// Renders the old configuration, or defines the domain of another program again.
    fn render_as_before(&self, name: &SandboxName, lock: &Arc<Lock>, log: &UndoLog) -> Result<()> {
        if self.store.config(name).exists() {
            let sandbox = self.get(name)?.locked_by(Arc::clone(lock));
            sandbox.render()?;
        } else {
            let hypervisor = self.connector.open(&self.connection)?;
            hypervisor.undefine(name.as_str())?;
            if let Some(document) = &log.domain {
                hypervisor.define(document)?;
            }
        }
        host_unit::reload_host();
        Ok(())
    }

    /// Finishes an upgrade: writes the `emptied` log, so that nothing is undone any more, and removes the work files.
    pub(in crate::service) fn finish_upgrade(
        &self,
        name: &SandboxName,
        emptied: UndoLog,
    ) -> Result<()> {
        self.store.begin(name, Intent::Upgrade(emptied.clone()))?;
        let tree =
            image::open_tree_at(name, &emptied.tree, emptied.image, &self.store.stage(name))?;
        Work::of(&emptied.tree, tree.path()).remove()?;
        place::sweep(&emptied.tree)?;
        tree.sync()?;
        let saved = self.store.upgrade(name);
        remove::any(&saved).map_err(Error::io("removing", &saved))?;
        self.store.end(name, Kind::Upgrade)
    }

    /// Starts a sandbox whose restart was interrupted, without waiting for it.
    fn restart_abandoned(&self, name: &SandboxName, lock: Arc<Lock>) -> Result<()> {
        let unit = name.unit();
        if host::runs_systemd() && self.store.unit(name).exists() {
            host_unit::systemctl(&["restart", "--no-block", "--", &unit]);
            return Ok(());
        }
        let mut sandbox = self.get(name)?.locked_by(lock);
        sandbox.stop()?;
        sandbox.start_unwatched()
    }
}
