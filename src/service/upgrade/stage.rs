//! Conversion of a plan to steps: objects of the host are prepared in slots.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::service::journal::Step;
use crate::service::upgrade::merge::Action;
use crate::service::upgrade::plan::Plan;
use crate::service::upgrade::steps::Work;
use crate::sys::copy::{Copied, Copier, Existing};
use crate::sys::root::Root;
use crate::tree::manifest::Entry;

/// Steps of an upgrade in order, each with the state that it expects at its path.
#[derive(Debug, Default)]
pub struct Staged {
    /// The steps.
    pub steps: Vec<Step>,
    /// State of the sandbox at the path of each step.
    pub before: Vec<Option<Entry>>,
}

impl Staged {
    fn push(&mut self, step: Step, before: Option<Entry>) {
        self.steps.push(step);
        self.before.push(before);
    }
}

/// Prepares objects of the host in the slots of `work`. Removals come first, from the leaves up; additions
/// follow, from the root down.
///
/// # Errors
/// The slots cannot be written.
pub fn stage(plan: &Plan, work: &Work) -> Result<Staged> {
    let slots = Root::new(&work.slots())?;
    let candidate = Root::new(&plan.candidate)?;
    let mut copier = Copier::new(&candidate, &slots, Existing::Refuse);
    let mut staged = Staged::default();
    let mut slot = 0;
    let mut next = || {
        slot += 1;
        slot
    };
    for change in plan.changes.iter().rev() {
        if change.action == Action::Remove {
            let step = Step::Remove {
                path: change.path.clone(),
                slot: next(),
            };
            staged.push(step, plan.sandbox.get(&change.path).cloned());
        }
    }
    // A replacement is recognised by its inode, which exists only after the copy.
    let mut replacing: Vec<(PathBuf, u32, Option<Entry>)> = Vec::new();
    for change in &plan.changes {
        let path = &change.path;
        let (to, entry) = match &change.action {
            Action::Add => (path, None),
            Action::Replace(entry) => (path, Some(entry.clone())),
            Action::Conflict(at) => (at, None),
            Action::Attributes(new) => {
                let old = plan.sandbox.get(path);
                if let Some(old) = old {
                    let step = Step::Attributes {
                        path: path.clone(),
                        old: old.into(),
                        new: new.into(),
                    };
                    staged.push(step, Some(old.clone()));
                }
                continue;
            }
            Action::Remove | Action::Keep => continue,
        };
        let slot = next();
        let copied = copier.copy_object(path, &PathBuf::from(format!("/{slot}")))?;
        if matches!(copied, Copied::Skipped(_)) {
            continue;
        }
        if plan.sandbox.get(to).is_some() {
            replacing.push((to.clone(), slot, entry));
        } else {
            let path = to.clone();
            staged.push(Step::Add { path, slot }, None);
        }
    }
    for path in plan.appearing.keys() {
        let slot = next();
        let copied = copier.copy_object(path, &PathBuf::from(format!("/{slot}")))?;
        if !matches!(copied, Copied::Skipped(_)) {
            let path = path.clone();
            staged.push(Step::Add { path, slot }, None);
        }
    }
    copier.finish()?;
    for (path, content) in &plan.accounts {
        let slot = next();
        slots.write_atomic(
            &PathBuf::from(format!("/{slot}")),
            content.as_bytes(),
            0o600,
        )?;
        let own = plan.sandbox.get(Path::new(path)).cloned();
        replacing.push((PathBuf::from(path), slot, own));
    }
    let mut replace = Staged::default();
    for (path, slot, entry) in replacing {
        let object = slots.plain_object(&PathBuf::from(format!("/{slot}")))?;
        if let Some(entry) = entry {
            object.set_attributes(entry.mode, entry.uid, entry.gid)?;
        }
        let before = plan.sandbox.get(&path).cloned();
        let inode = object.inode()?;
        replace.push(Step::Replace { path, slot, inode }, before);
    }
    // A file may become a directory with new content, so replacements come before additions.
    let removals = staged
        .steps
        .iter()
        .take_while(|step| matches!(step, Step::Remove { .. }))
        .count();
    staged.steps.splice(removals..removals, replace.steps);
    staged.before.splice(removals..removals, replace.before);
    Ok(staged)
}
