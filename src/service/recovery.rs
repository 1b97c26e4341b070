//! Completion or undo of interrupted commands, and removal of what killed ones have left.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::guest::kernel;
use crate::host::cgroup;
use crate::service::journal::Intent;
use crate::service::sandboxes::Sandboxes;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::file::{atomic, remove};

/// Leftover of an interrupted command, and its repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// Sandbox; `None` for a leftover that belongs to none.
    pub name: Option<SandboxName>,
    /// Leftover.
    pub found: String,
    /// Treatment.
    pub action: String,
    /// Result of the treatment.
    pub result: Outcome,
    /// Reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Result of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was done, as asked.
    Planned,
    /// The leftover is gone.
    Done,
    /// The leftover is still there.
    Failed,
}

impl Outcome {
    /// Returns its name, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Treatment of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Report it only.
    DryRun,
    /// Repair everything.
    Repair,
    /// Repair what could be in the way of another command, and log that.
    Recover,
}

impl Sandboxes {
    /// Finishes or undoes interrupted commands, and logs that. A repair that fails does not block the present command.
    ///
    /// # Errors
    /// The sandboxes cannot be listed.
    pub fn recover(&self) -> Result<()> {
        self.repair(&self.store.names()?, Mode::Recover).map(drop)
    }

    /// Finishes or undoes interrupted commands on sandboxes, and removes the temporary files of killed ones. Sandboxes that a
    /// command works on are skipped.
    ///
    /// # Errors
    /// The directory of the host's units cannot be read.
    pub fn repair(&self, names: &[SandboxName], mode: Mode) -> Result<Vec<Repair>> {
        let mut repairs = Repairs { mode, done: vec![] };
        for name in names {
            self.repair_one(name, &mut repairs);
        }
        let units = atomic::abandoned(&self.store.units);
        let units = units.map_err(Error::io("reading", &self.store.units))?;
        repairs.sweep(None, units);
        Ok(repairs.done)
    }

    fn repair_one(&self, name: &SandboxName, repairs: &mut Repairs) {
        let store = &self.store;
        let dir = store.dir(name);
        repairs.sweep(Some(name), atomic::abandoned(&dir).unwrap_or_default());
        if repairs.mode != Mode::Recover {
            // Looking through the host's hierarchies takes time, and every start does it for its sandbox.
            self.repair_groups(name, repairs);
        }
        let boot = store.stage(name).join(kernel::BOOT_FILES);
        let has_secrets = || store.load(name).map_or(true, |config| config.has_secrets());
        let has_boot_files = || kernel::Boot::has_content(&boot) && has_secrets();
        let has_work =
            || !store.journal_files(name).is_empty() || store.is_debris(name) || has_boot_files();
        if !has_work() {
            return;
        }
        let Some(lock) = store.try_lock(name) else {
            return;
        };
        // The former holder of the lock may have finished meanwhile.
        if has_boot_files() {
            let found = "boot files with secrets that a killed command has left".to_owned();
            let act = || kernel::Boot::empty(&boot);
            repairs.add(Some(name), found, "empty them", act);
        }
        if store.journal_files(name).is_empty() {
            if store.is_debris(name) {
                let found = "a directory that a killed command has left".to_owned();
                let act = || store.delete(name);
                repairs.add(Some(name), found, "remove it", act);
            }
            return;
        }
        let lock = Arc::new(lock);
        match store.intents(name) {
            Ok(intents) => {
                for intent in intents {
                    self.repair_intent(name, intent, &lock, repairs);
                    if !dir.exists() {
                        return;
                    }
                }
            }
            Err(error) => {
                let path = store.journal(name);
                let found = format!("a journal that cannot be read, '{}'", path.display());
                let action = "remove it by hand and look at the sandbox".to_owned();
                repairs.record(Some(name), found, action, Err(error));
            }
        }
    }

    /// Removes control groups that a killed stop or start of a sandbox has left.
    fn repair_groups(&self, name: &SandboxName, repairs: &mut Repairs) {
        let groups = cgroup::of_name(name);
        let Some(_lock) = self.store.try_lock(name).filter(|_| !groups.is_empty()) else {
            return;
        };
        let sandbox = self.get_for_stop(name);
        if !sandbox.is_ok_and(|sandbox| matches!(sandbox.is_running(), Ok(false))) {
            return;
        }
        let found = "control groups of a stopped sandbox".to_owned();
        let act = || match cgroup::remove_all(&groups) {
            true => Ok(()),
            false => Err(Error::busy(
                "a process is still in one; 'systemd-cgls' shows it",
            )),
        };
        repairs.add(Some(name), found, "remove them", act);
    }

    fn repair_intent(
        &self,
        name: &SandboxName,
        intent: Intent,
        lock: &Arc<Lock>,
        repairs: &mut Repairs,
    ) {
        let (found, remedy) = (intent.found(), intent.remedy(name));
        let mut busy = None;
        if let Intent::Upgrade(_) = intent {
            // An upgrade lets the sandbox's lock go for a restart.
            let path = self.store.upgrade_lock(name);
            let Ok(Ok(lock)) = Lock::try_acquire(&path, Sharing::Exclusive) else {
                return;
            };
            busy = Some(lock);
        }
        let act = || match intent {
            Intent::Remove(removal) => {
                let hypervisor = self.connector.open(&removal.connection)?;
                self.remove(name, &removal, &*hypervisor)
            }
            Intent::Freeze => self.get_for_stop(name)?.thaw(),
            Intent::Rename(renaming) => self.resume_rename(name, *renaming, Arc::clone(lock)),
            Intent::Snapshot(pending) => {
                let mut sandbox = self.get(name)?.locked_by(Arc::clone(lock));
                sandbox.check_tree()?;
                sandbox.resolve(pending)
            }
            Intent::Upgrade(log) => self.resume_upgrade(name, &log, Arc::clone(lock)),
        };
        repairs.add(Some(name), found, remedy, act);
        drop(busy);
    }
}

/// Repairs so far.
struct Repairs {
    mode: Mode,
    done: Vec<Repair>,
}

impl Repairs {
    /// Carries out a repair, unless only a report is wanted, and records it.
    fn add(
        &mut self,
        name: Option<&SandboxName>,
        found: String,
        action: &str,
        act: impl FnOnce() -> Result<()>,
    ) {
        if self.mode == Mode::Recover {
            log::info!("{}: to {action}", about(name, &found));
        }
        let result = match self.mode {
            Mode::DryRun => Ok(Outcome::Planned),
            Mode::Repair | Mode::Recover => act().map(|()| Outcome::Done),
        };
        self.record(name, found, action.to_owned(), result);
    }

    fn record(
        &mut self,
        name: Option<&SandboxName>,
        found: String,
        action: String,
        result: Result<Outcome>,
    ) {
        let (result, error) = match result {
            Ok(outcome) => (outcome, None),
            Err(error) => (Outcome::Failed, Some(error.chain())),
        };
        if let (Mode::Recover, Some(error)) = (self.mode, &error) {
            log::warn!("{}: {error}", about(name, &found));
        }
        self.done.push(Repair {
            name: name.cloned(),
            found,
            action,
            result,
            error,
        });
    }

    /// Removes temporary files whose writers are dead.
    fn sweep(&mut self, name: Option<&SandboxName>, files: Vec<PathBuf>) {
        for file in files {
            let found = format!("'{}' of a killed command", file.display());
            let act = || remove::file(&file).map_err(Error::io("removing", &file));
            self.add(name, found, "remove it", act);
        }
    }
}

/// Returns the subject of a message about a leftover.
fn about(name: Option<&SandboxName>, found: &str) -> String {
    match name {
        Some(name) => format!("'{name}': {found}"),
        None => found.to_owned(),
    }
}
