//! Upgrade of a sandbox after the host has changed.
//!
//! | module | what it owns |
//! |---|---|
//! | `merge` | `/etc`: changes of the host are taken over, changes of the sandbox stay |
//! | `accounts` | the account files, merged by entry |
//! | `plan` | plan of an upgrade |
//! | `public` | limits for imported sandboxes |
//! | `stage` | from a plan to steps |
//! | `steps` | execution and undo of steps |
//! | `recovery` | undo of interrupted and failed upgrades |
//! | `report` | text of a plan |
//! | `legacy` | sandboxes of libvirt-sandbox up to 0.8 |
//!
//! The next command undoes an abandoned upgrade by the log in its intent. A log with nothing to undo belongs to a
//! finished one, whose work files remain to be removed. If the tree is in an image, so are the slots;
//! the log and the replaced files are on the host.

pub mod accounts;
pub mod legacy;
pub mod merge;
pub mod plan;
mod public;
mod recovery;
pub mod report;
pub mod stage;
pub mod steps;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::service::cancellation::Cancellation;
use crate::service::image::{self, Tree};
use crate::service::inspect::outdated::Outdated;
use crate::service::journal::{Intent, UndoLog};
use crate::service::sandbox::{LockedSandbox, Sandbox};
use crate::service::sandboxes::Sandboxes;
use crate::service::upgrade::plan::Plan;
use crate::service::upgrade::stage::{Staged, stage};
use crate::service::upgrade::steps::Work;
use crate::sys::file::atomic;
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::file::remove;
use crate::sys::root::Root;
use crate::tree::place;

/// Options of an upgrade.
#[allow(missing_debug_implementations)]
pub struct Options<'a> {
    /// Restart a running sandbox if something has changed for it.
    pub restart: bool,
    /// Treat an imported sandbox as made by the administrator from now on.
    pub trust: bool,
    /// Function that starts a sandbox and waits until it is ready.
    pub start: &'a dyn Fn(&SandboxName) -> Result<()>,
}

/// Result of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A line for each path, account and package; empty if nothing has changed.
    pub lines: Vec<String>,
    /// Summary in a few words.
    pub summary: String,
}

/// Preview of an upgrade.
#[derive(Debug)]
pub struct Preview {
    /// Plan.
    pub plan: Plan,
    /// Notes on the conversion of a sandbox of another program.
    pub converted: Vec<String>,
    tree: Tree,
    /// Directory with the host's version of the tree.
    _candidate: tempfile::TempDir,
}

impl Preview {
    /// Returns the differences of texts.
    ///
    /// # Errors
    /// The tree is missing.
    pub fn diff(&self) -> Result<String> {
        Ok(report::diff(&self.plan, &Root::new(self.tree.path())?))
    }
}

/// Sandbox to upgrade, perhaps converted from another program.
struct Subject<S> {
    sandbox: S,
    /// File of the other program, and notes on the conversion.
    converted: Option<(PathBuf, Vec<String>)>,
}

/// Remaining work once the tree is upgraded.
struct Applied {
    outcome: Outcome,
    /// Identity: another sandbox may have the name once the lock is free.
    uuid: Uuid,
    /// True if the sandbox runs without the changes.
    is_stale: bool,
    /// Steps to undo if the restart fails.
    log: UndoLog,
    /// File of the other program, to be renamed.
    converted: Option<PathBuf>,
}

impl Sandboxes {
    /// Plans an upgrade. Nothing on disk changes.
    ///
    /// # Errors
    /// Errors of [`upgrade`](Self::upgrade).
    pub fn preview_upgrade(&self, name: &SandboxName, trust: bool) -> Result<Preview> {
        let Subject { sandbox, converted } = self.subject(name)?;
        let candidate = tempfile::tempdir().map_err(Error::step("making a temporary directory"))?;
        let tree = sandbox.tree()?;
        Ok(Preview {
            plan: sandbox.plan_upgrade(tree.path(), candidate.path(), trust)?,
            tree,
            converted: converted.map(|(_, notes)| notes).unwrap_or_default(),
            _candidate: candidate,
        })
    }

    /// Upgrades a sandbox to the host's present state.
    ///
    /// # Errors
    /// There is no such sandbox, its service is not on the host any more, its files cannot be written, or, after a
    /// restart, its units do not become active. Everything is as before then, and the sandbox runs again if it did.
    pub fn upgrade(&self, name: &SandboxName, options: &Options<'_>) -> Result<Outcome> {
        self.subject(name)?;
        let dir = self.store.dir(name);
        let is_new = !dir.exists();
        if is_new {
            let made = fs::DirBuilder::new().mode(0o700).create(&dir);
            made.map_err(Error::io("creating", &dir))?;
        }
        let path = self.store.upgrade_lock(name);
        let _busy = Lock::acquire(&path, Sharing::Exclusive, |held| {
            log::warn!("waiting: {held}")
        })?;
        let applied = self.apply_upgrade(name, options);
        if applied.is_err() && is_new {
            for file in [self.store.upgrade_lock(name), self.store.lock_file(name)] {
                let _ = fs::remove_file(file);
            }
            let _ = fs::remove_dir(&dir);
        }
        let applied = applied?;
        let mut outcome = applied.outcome;
        if applied.log.restarting {
            let restarted = self
                .get_same(name, applied.uuid)
                .and_then(|sandbox| sandbox.stop())
                .and_then(|()| (options.start)(name));
            if let Err(error) = restarted {
                return Err(self.roll_back((name, applied.uuid), options, error));
            }
            outcome.summary += "; restarted";
        } else if applied.is_stale {
            outcome.summary += "; restart it to have it use all of that";
        }
        let _lock = self.lock_same(name, applied.uuid)?;
        if applied.is_stale && !applied.log.restarting {
            let started = self.store.started(name);
            remove::file(&started).map_err(Error::io("removing", &started))?;
        }
        let emptied = UndoLog {
            restarting: false,
            ..applied.log.emptied()
        };
        self.finish_upgrade(name, emptied)?;
        // Not earlier: undoing the upgrade needs it.
        if let Some(file) = &applied.converted {
            legacy::set_aside(file)?;
        }
        Ok(outcome)
    }

    /// Reads the configuration of a sandbox; converts one of another program.
    fn subject(&self, name: &SandboxName) -> Result<Subject<Sandbox<'_>>> {
        let own = self.store.config(name).exists();
        match legacy::find(&self.store, name).filter(|_| !own) {
            Some(file) => {
                let conversion = self.convert(name, &file)?;
                Ok(Subject {
                    sandbox: Sandbox::new(self, conversion.config),
                    converted: Some((file, conversion.notes)),
                })
            }
            None => {
                let sandbox = self.get(name)?;
                sandbox.check_tree()?;
                Ok(Subject {
                    sandbox,
                    converted: None,
                })
            }
        }
    }

    /// Returns a sandbox that was not deleted and made anew since its identity was read.
    fn get_same(&self, name: &SandboxName, uuid: Uuid) -> Result<Sandbox<'_>> {
        let sandbox = self.get_for_stop(name)?;
        match sandbox.config().uuid == uuid {
            true => Ok(sandbox),
            false => Err(Error::not_found(format!(
                "the sandbox '{name}' was deleted while it was upgraded; the one that has its name now is another"
            ))),
        }
    }

    /// Takes the lock of a sandbox again, between two parts of an operation.
    pub(in crate::service) fn lock_same(
        &self,
        name: &SandboxName,
        uuid: Uuid,
    ) -> Result<Arc<Lock>> {
        let check = || self.get_same(name, uuid).map(drop);
        let lock = self.store.lock_if(name, check)?;
        check()?;
        Ok(lock.into())
    }

    /// Plans and carries out everything but the restart, with the lock held.
    fn apply_upgrade(&self, name: &SandboxName, options: &Options<'_>) -> Result<Applied> {
        let lock = self
            .store
            .lock_if(name, || self.subject(name).map(drop))?
            .into();
        self.undo_open_upgrade(name, &lock)?;
        let Subject { sandbox, converted } = self.subject(name)?;
        let mut subject = Subject {
            sandbox: sandbox.locked_by(lock),
            converted,
        };
        subject.apply(options)
    }
}

impl Subject<LockedSandbox<'_>> {
    fn apply(&mut self, options: &Options<'_>) -> Result<Applied> {
        let sandbox = &self.sandbox;
        let (name, store) = (sandbox.name().clone(), sandbox.store());
        let old = sandbox.config().clone();
        let is_running = sandbox.is_running()?;
        if is_running && self.converted.is_some() {
            return Err(Error::running(format!(
                "the sandbox '{name}' is running; stop it with 'virsh -c {} shutdown {name}' to convert it",
                old.connection
            )));
        }
        let mut log = UndoLog {
            tree: old.path.clone(),
            image: old.image,
            steps: vec![],
            saved: vec![],
            domain: None,
            restarting: false,
        };
        let plan = self.carry_out(&mut log, options.trust).map_err(|error| {
            let remedy = "remove from it what it does not need";
            image::explained(error, old.image, remedy).followed_by(self.undo(&name))
        })?;
        let started = SandboxConfig::load(&store.started(&name)).ok();
        let is_current = !plan.is_relevant() && started.as_ref() == Some(&plan.config);
        let outdated = match is_running {
            true => self.sandbox.outdated().unwrap_or_else(|error| {
                log::warn!("{name}: looking for replaced programs: {}", error.chain());
                Outdated::default()
            }),
            false => Outdated::default(),
        };
        let is_stale = is_running && !(is_current && outdated.is_empty());
        if is_stale && options.restart {
            log.restarting = true;
            store.begin(&name, Intent::Upgrade(log.clone()))?;
        }
        let mut lines = report::lines(&plan);
        let notes = self
            .converted
            .iter()
            .flat_map(|(_, notes)| notes.iter().cloned());
        lines.splice(0..0, notes);
        if !outdated.is_empty() {
            lines.push(format!(
                "{:<9} {}  [replaced on the host while it runs]",
                "old",
                outdated.described()
            ));
        }
        Ok(Applied {
            outcome: Outcome {
                lines,
                summary: report::summary(&plan, old != plan.config),
            },
            uuid: plan.config.uuid,
            is_stale,
            log,
            converted: self.converted.take().map(|(file, _)| file),
        })
    }

    fn undo(&self, name: &SandboxName) -> Result<()> {
        let lock = self.sandbox.held_lock();
        self.sandbox.host().undo_open_upgrade(name, lock)
    }

    fn carry_out(&mut self, log: &mut UndoLog, trust: bool) -> Result<Plan> {
        let sandbox = &mut self.sandbox;
        let (name, store, host) = (sandbox.name().clone(), sandbox.store(), sandbox.host());
        let old = sandbox.config().clone();
        let records = store.upgrade(&name);
        // If the tree cannot be opened, there is nothing to undo.
        let tree = sandbox.tree()?;
        // Without steps, it says where to clean up.
        store.begin(&name, Intent::Upgrade(log.clone()))?;
        remove::any(&records).map_err(Error::io("removing", &records))?;
        let made = fs::DirBuilder::new().mode(0o700).create(&records);
        made.map_err(Error::io("creating", &records))?;
        let work = Work::of(&old.path, tree.path());
        work.make()?;
        let plan = sandbox.plan_upgrade(tree.path(), &work.host(), trust)?;
        let staged = stage(&plan, &work)?;
        let mut files = vec![
            store.config(&name),
            store.manifest(&name),
            store.base(&name),
            store.unit(&name),
        ];
        if self.converted.is_some() {
            files.push(place::mark_of(&old.path));
            log.domain = sandbox.hypervisor()?.definition(name.as_str())?;
        }
        for file in files {
            log.keep(&records, file)?;
        }
        log.steps = staged.steps.clone();
        Root::new(&work.slots())?.sync()?;
        store.begin(&name, Intent::Upgrade(log.clone()))?;

        apply_steps(&staged, tree.path(), &work, &host.cancellation)?;
        tree.sync()?;
        drop(tree);
        if self.converted.is_some() {
            place::adopt(&old.path, old.uuid)?;
            // The domain has a foreign UUID; libvirt refuses another one with the same name.
            sandbox.hypervisor()?.undefine(name.as_str())?;
        }
        let manifest = plan.host.to_string();
        atomic::write(&store.manifest(&name), manifest.as_bytes(), 0o600)?;
        plan.base.save(&store.base(&name))?;
        if plan.config != old || self.converted.is_some() {
            plan.config.save(&store.config(&name))?;
        }
        sandbox.replace_config(plan.config.clone());
        sandbox.render()?;
        Ok(plan)
    }
}

fn apply_steps(
    staged: &Staged,
    tree: &Path,
    work: &Work,
    cancellation: &Cancellation,
) -> Result<()> {
    let tree = Root::new(tree)?;
    let slots = Root::new(&work.slots())?;
    for (step, before) in staged.steps.iter().zip(&staged.before) {
        cancellation.check()?;
        step.apply(&tree, &slots, before.as_ref())?;
    }
    Ok(())
}
