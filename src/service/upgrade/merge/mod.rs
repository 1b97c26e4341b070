//! Three-way merge of a tree: the base that the sandbox was made from, the host's present state, and the sandbox's present state.
//!
//! Pure. Changes of the host are taken over and changes of the sandbox stay. Where both changed the same object
//! differently, the sandbox's stays and the host's is put beside it. Mode, owner and group are merged
//! separately. Nothing of the sandbox is lost: a directory is only removed when it is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::path::{Path, PathBuf};

use crate::tree::manifest::{Entry, Kind, Manifest};

/// Suffix for the host's version of a file that the sandbox has changed.
pub const SUFFIX: &str = ".virt-sandbox-new";

/// Maximum length of a file name, in bytes (`NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// Change of a path in the sandbox, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Path inside the sandbox.
    pub path: PathBuf,
    /// Action.
    pub action: Action,
    /// Reason, as a phrase.
    pub reason: &'static str,
}

/// Action at a path of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Add the host's object.
    Add,
    /// Replace the sandbox's object by the host's, with mode and owner of this entry.
    Replace(Entry),
    /// Change mode and owner to those of this entry.
    Attributes(Entry),
    /// Remove the object.
    Remove,
    /// Keep the sandbox's object, and add the host's at this path.
    Conflict(PathBuf),
    /// Keep the sandbox's object, or its absence.
    Keep,
}

impl Action {
    /// Returns the word for listings.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Add => "added",
            Self::Replace(_) | Self::Attributes(_) => "updated",
            Self::Remove => "removed",
            Self::Conflict(_) => "conflict",
            Self::Keep => "kept",
        }
    }
}

type Decisions<'a> = BTreeMap<&'a Path, (Action, &'static str)>;

/// Computes the changes in the sandbox, sorted by path. A kept object is listed only if the host has changed it.
#[must_use]
pub fn merge(base: &Manifest, host: &Manifest, sandbox: &Manifest) -> Vec<Change> {
    let paths: BTreeSet<&PathBuf> = [base, host, sandbox]
        .into_iter()
        .flat_map(|manifest| manifest.iter().map(|(path, _)| path))
        .collect();
    let mut decisions: Decisions<'_> = paths
        .into_iter()
        .filter_map(|path| {
            let decision = decide(base.get(path), host.get(path), sandbox.get(path))?;
            Some((path.as_path(), decision))
        })
        .collect();
    keep_what_is_in_use(&mut decisions, sandbox);
    place(decisions, host, sandbox)
}

/// Decides about one path on its own. The place of a conflict is chosen later.
fn decide(
    base: Option<&Entry>,
    host: Option<&Entry>,
    sandbox: Option<&Entry>,
) -> Option<(Action, &'static str)> {
    if host == base || host == sandbox {
        return None;
    }
    Some(match (base, host, sandbox) {
        (_, None, None) => return None,
        (None, Some(_), None) => (Action::Add, "new on the host"),
        (Some(_), Some(_), None) => (
            Action::Keep,
            "removed in the sandbox and changed on the host",
        ),
        (_, None, Some(_)) if base == sandbox => (Action::Remove, "the host has it no more"),
        (_, None, Some(_)) => (
            Action::Keep,
            "changed in the sandbox; the host has it no more",
        ),
        (None, Some(host), Some(sandbox)) if host.kind == sandbox.kind => (
            Action::Keep,
            "made on the host and in the sandbox, with another mode or owner",
        ),
        (None, Some(_), Some(_)) => (conflict(), "made on the host and in the sandbox"),
        (Some(base), Some(host), Some(sandbox)) => return fields(base, host, sandbox),
    })
}

fn conflict() -> Action {
    Action::Conflict(PathBuf::new())
}

/// Merges content, mode, owner and group separately.
fn fields(base: &Entry, host: &Entry, sandbox: &Entry) -> Option<(Action, &'static str)> {
    let other_type = discriminant(&host.kind) != discriminant(&sandbox.kind);
    let kind = three(&base.kind, &host.kind, &sandbox.kind);
    // The mode of a file has no meaning for a directory.
    let Some(kind) = kind.filter(|_| !other_type || base == sandbox) else {
        return Some((conflict(), "changed on the host and in the sandbox"));
    };
    let mode = three(&base.mode, &host.mode, &sandbox.mode);
    let uid = three(&base.uid, &host.uid, &sandbox.uid);
    let gid = three(&base.gid, &host.gid, &sandbox.gid);
    let is_contested = mode.is_none() || uid.is_none() || gid.is_none();
    let merged = Entry {
        kind: kind.clone(),
        mode: *mode.unwrap_or(&sandbox.mode),
        uid: *uid.unwrap_or(&sandbox.uid),
        gid: *gid.unwrap_or(&sandbox.gid),
    };
    if merged.kind != sandbox.kind {
        return Some((Action::Replace(merged), "changed on the host"));
    }
    if merged != *sandbox {
        return Some((
            Action::Attributes(merged),
            "mode or owner changed on the host",
        ));
    }
    is_contested.then_some((
        Action::Keep,
        "mode or owner changed on the host and in the sandbox",
    ))
}

/// Merges three values; returns `None` if both sides changed it differently.
fn three<'a, T: PartialEq>(base: &'a T, host: &'a T, sandbox: &'a T) -> Option<&'a T> {
    if host == sandbox || host == base {
        Some(sandbox)
    } else if sandbox == base {
        Some(host)
    } else {
        None
    }
}

/// Keeps directories with content that stays.
fn keep_what_is_in_use(decisions: &mut Decisions<'_>, sandbox: &Manifest) {
    let mut in_use: BTreeSet<&Path> = BTreeSet::new();
    for (path, entry) in sandbox.iter().rev() {
        let decision = decisions.get_mut(path.as_path());
        let mut stays = true;
        if let Some((action, reason)) = decision {
            let goes = match &*action {
                Action::Remove => true,
                Action::Replace(new) => {
                    entry.kind == Kind::Directory && new.kind != Kind::Directory
                }
                Action::Add | Action::Attributes(_) | Action::Conflict(_) | Action::Keep => false,
            };
            if goes && in_use.contains(path.as_path()) {
                let is_removal = *action == Action::Remove;
                *action = if is_removal { Action::Keep } else { conflict() };
                *reason = if is_removal {
                    "the sandbox has files of its own in it; the host has it no more"
                } else {
                    "no directory on the host any more, but the sandbox has files of its own in it"
                };
            }
            stays = *action != Action::Remove;
        }
        if stays {
            in_use.extend(path.parent());
        }
    }
}

/// Chooses the paths for objects of the host.
fn place(decisions: Decisions<'_>, host: &Manifest, sandbox: &Manifest) -> Vec<Change> {
    let is_dir = |manifest: &Manifest, path: &Path| {
        manifest
            .get(path)
            .is_some_and(|entry| entry.kind == Kind::Directory)
    };
    let mut directories: BTreeSet<PathBuf> = sandbox
        .iter()
        .filter(|(_, entry)| entry.kind == Kind::Directory)
        .map(|(path, _)| path.clone())
        .chain([PathBuf::from("/")])
        .collect();
    // Directories of the host that go beside an object of the sandbox.
    let mut beside: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut changes = Vec::new();
    for (path, (mut action, mut reason)) in decisions {
        let parent = path.parent().unwrap_or(Path::new("/"));
        match &mut action {
            Action::Add => {
                if let (Some(dir), Some(name)) = (beside.get(parent), path.file_name()) {
                    let at = dir.join(name);
                    if is_dir(host, path) {
                        beside.insert(path.to_owned(), at.clone());
                    }
                    action = Action::Conflict(at);
                    reason = "in a directory that is a conflict";
                } else if !directories.contains(parent) {
                    action = Action::Keep;
                    reason = "new on the host, but the sandbox does not have its directory";
                } else if is_dir(host, path) {
                    directories.insert(path.to_owned());
                }
            }
            Action::Conflict(at) => {
                *at = with_suffix(path);
                let taken = sandbox.get(at).is_some();
                if is_dir(sandbox, at) || (taken && is_dir(host, path)) || is_too_long(at) {
                    action = Action::Keep;
                    reason = "changed on the host and in the sandbox; there is no place for the host's beside it";
                } else if is_dir(host, path) {
                    beside.insert(path.to_owned(), at.clone());
                }
            }
            Action::Replace(new) if new.kind == Kind::Directory => {
                directories.insert(path.to_owned());
            }
            Action::Replace(_) | Action::Remove => {
                directories.remove(path);
            }
            Action::Attributes(_) | Action::Keep => {}
        }
        changes.push(Change {
            path: path.to_owned(),
            action,
            reason,
        });
    }
    changes
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(SUFFIX);
    text.into()
}

fn is_too_long(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.len() > LONGEST_NAME)
}

#[cfg(test)]
mod tests;
