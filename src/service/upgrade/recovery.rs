//! Undo of an interrupted or failed upgrade, by the command itself or by the next one.

use std::path::Path;
use std::sync::Arc;

use crate::config::SandboxName;
use crate::error::{Error, ErrorKind, Result};
use crate::host;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::remove_tree;
use crate::service::upgrade::Options;
use crate::service::upgrade::journal::{Journal, Work};
use crate::service::{host_unit, image};
use crate::sys::file::lock::{Lock, Sharing};

impl Sandboxes {
    /// Undoes an upgrade whose restart has failed, and starts the sandbox as it was before.
    pub(super) fn roll_back(
        &self,
        name: &SandboxName,
        options: &Options<'_>,
        error: Error,
    ) -> Error {
        let stopped = self.get_for_stop(name).and_then(|sandbox| sandbox.stop());
        let undone = stopped.and_then(|()| {
            let lock = self.lock_any(name)?;
            self.undo_upgrade(name, &lock)?;
            Ok(lock)
        });
        let started = undone.and_then(|lock| match self.is_cancelled() {
            // The user has cancelled: do not wait any longer.
            true => {
                self.restart_abandoned(name, lock);
                Ok(())
            }
            false => {
                drop(lock);
                (options.start)(name)
            }
        });
        let end = match started {
            Ok(()) => format!("the upgrade of '{name}' was undone, and it runs as before"),
            Err(second) => format!("the upgrade of '{name}' was not undone in full: {second}"),
        };
        if error.kind() == ErrorKind::NotReady {
            return Error::not_ready(format!("{error}\n{end}"));
        }
        log::warn!("{end}");
        error
    }

    /// Undoes an unfinished upgrade, or removes the work files of a finished one. Returns true if the sandbox was
    /// being restarted.
    pub(super) fn undo_upgrade(&self, name: &SandboxName, lock: &Arc<Lock>) -> Result<bool> {
        let records = self.store.upgrade(name);
        if !records.is_dir() {
            return Ok(false);
        }
        let Some(journal) = Journal::load(&records)? else {
            remove_tree(&records);
            return Ok(false);
        };
        let tree =
            image::open_tree_at(name, &journal.tree, journal.image, &self.store.stage(name))?;
        journal.undo(tree.path())?;
        // The next steps may need exclusive use of the image.
        tree.sync()?;
        drop(tree);
        if !journal.saved.is_empty() {
            self.render_as_before(name, lock, &journal);
        }
        self.finish_upgrade(name, &journal.emptied())?;
        Ok(journal.restarting)
    }

    /// Renders the old configuration. Failures are repaired by the next start.
    fn render_as_before(&self, name: &SandboxName, lock: &Arc<Lock>, journal: &Journal) {
        let rendered = match self.get(name) {
            Ok(sandbox) => sandbox.locked_by(Arc::clone(lock)).render(),
            Err(_) => self
                .connector
                .open(&self.connection)
                .and_then(|hypervisor| {
                    hypervisor.undefine(name.as_str())?;
                    let document = journal.domain.as_deref();
                    document.map_or(Ok(()), |document| hypervisor.define(document))
                }),
        };
        if let Err(error) = rendered {
            log::warn!("defining '{name}' as it was: {error}");
        }
        host_unit::reload_host();
    }

    /// Finishes an upgrade: saves the `emptied` journal, so that nothing is undone any more, and removes the work files.
    pub(super) fn finish_upgrade(&self, name: &SandboxName, emptied: &Journal) -> Result<()> {
        let records = self.store.upgrade(name);
        emptied.save(&records)?;
        let tree =
            image::open_tree_at(name, &emptied.tree, emptied.image, &self.store.stage(name))?;
        Work::of(&emptied.tree, tree.path()).remove();
        tree.sync()?;
        remove_tree(&records);
        Ok(())
    }

    /// Undoes or finishes interrupted upgrades.
    pub(in crate::service) fn recover_upgrades(&self) -> Result<()> {
        for name in self.store.names()? {
            if !self.store.upgrade(&name).is_dir() {
                continue;
            }
            let attempt = |path: &Path| Lock::try_acquire(path, Sharing::Exclusive).ok()?.ok();
            let (Some(_busy), Some(lock)) = (
                attempt(&self.store.upgrade_lock(&name)),
                attempt(&self.store.lock_file(&name)),
            ) else {
                continue;
            };
            let lock = Arc::new(lock);
            log::info!("undoing the upgrade of '{name}', which was interrupted");
            match self.undo_upgrade(&name, &lock) {
                Ok(true) => self.restart_abandoned(&name, lock),
                Ok(false) => {}
                Err(error) => log::warn!("undoing the upgrade of '{name}': {error}"),
            }
        }
        Ok(())
    }

    /// Starts a sandbox whose restart was interrupted, without waiting for it.
    fn restart_abandoned(&self, name: &SandboxName, lock: Arc<Lock>) {
        let unit = name.unit();
        if host::runs_systemd() && self.store.unit(name).exists() {
            return host_unit::systemctl(&["restart", "--no-block", "--", &unit]);
        }
        let started = self.get(name).and_then(|sandbox| {
            let mut sandbox = sandbox.locked_by(lock);
            sandbox.stop()?;
            sandbox.start_unwatched()
        });
        if let Err(error) = started {
            log::warn!("starting '{name}' again: {error}");
        }
    }
}
