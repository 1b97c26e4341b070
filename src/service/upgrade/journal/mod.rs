//! Steps of an upgrade, and their undo.
//!
//! Objects of the host are prepared in slots beside the sandbox's tree, on its filesystem and out of its reach. A
//! step is one rename, or one exchange of two names: the replaced object is in the slot afterwards, so that the slots alone
//! show which steps were done. Files of the configuration are copied before they are written.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::TreeImage;
use crate::error::{Error, Result};
use crate::service::store::remove_tree;
use crate::sys::file::atomic;
use crate::sys::root::{Root, RootError};
use crate::tree::manifest::{Entry, Kind};
use crate::tree::place;

/// Journal of an upgrade, written before its first step and removed after its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Journal {
    /// Place of the tree.
    pub tree: PathBuf,
    /// Image beside that place, if the tree is in one.
    #[serde(default)]
    pub image: Option<TreeImage>,
    /// Steps in the tree.
    pub steps: Vec<Step>,
    /// Saved files of the host.
    pub saved: Vec<Saved>,
    /// XML of a replaced domain of another program.
    pub domain: Option<String>,
    /// True while the sandbox is being restarted.
    pub restarting: bool,
}

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl From<&Entry> for Attributes {
    fn from(entry: &Entry) -> Self {
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
        }
    }
}

/// One step in the tree. Paths are relative to the sandbox's root; slots are numbered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Move the object in the slot to a free path.
    Add { path: PathBuf, slot: u32 },
    /// Exchange the object in the slot, which has this inode, with the one at the path.
    Replace {
        path: PathBuf,
        slot: u32,
        inode: u64,
    },
    /// Move the object at the path to the slot.
    Remove { path: PathBuf, slot: u32 },
    /// Change mode and owner.
    Attributes {
        path: PathBuf,
        old: Attributes,
        new: Attributes,
    },
}

/// File of the host with the copy of its old content; `None` if it did not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub path: PathBuf,
    pub copy: Option<PathBuf>,
}

fn slot_path(slot: u32) -> PathBuf {
    PathBuf::from(format!("/{slot}"))
}

/// Work directories of an upgrade. Only the slots must be on the filesystem of the tree: an image may have little space.
#[derive(Debug)]
pub struct Work {
    /// Work directory on the host.
    place: PathBuf,
    /// Work directory in the tree; the same one, unless the tree is in an image.
    tree: PathBuf,
}

impl Work {
    /// Returns the work directories of the tree with the top `tree` and the place `place` on the host.
    #[must_use]
    pub fn of(place: &Path, tree: &Path) -> Self {
        Self {
            place: place::work_of(place),
            tree: place::work_of(tree),
        }
    }

    /// Creates empty work directories.
    ///
    /// # Errors
    /// A directory cannot be created.
    pub fn make(&self) -> Result<()> {
        self.remove();
        for dir in [&self.host(), &self.slots()] {
            fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        }
        Ok(())
    }

    /// Returns the directory of the host's version of the tree.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.place.join("host")
    }

    /// Returns the directory of slots.
    #[must_use]
    pub fn slots(&self) -> PathBuf {
        self.tree.join("slots")
    }

    /// Removes the work directories.
    pub fn remove(&self) {
        remove_tree(&self.place);
        remove_tree(&self.tree);
    }
}

impl Step {
    /// Carries out the step. `before` is the planned state of the path; it is an error if the sandbox has changed it meanwhile.
    ///
    /// # Errors
    /// A link or another object is in the way, or the sandbox has changed the path.
    pub fn apply(&self, tree: &Root, slots: &Root, before: Option<&Entry>) -> Result<()> {
        match self {
            Self::Add { path, slot } => {
                slots.move_to(&slot_path(*slot), tree, path)?;
                Ok(())
            }
            Self::Replace { path, slot, .. } => {
                tree.exchange(path, slots, &slot_path(*slot))?;
                check(slots, *slot, path, before)
            }
            Self::Remove { path, slot } => {
                tree.move_to(path, slots, &slot_path(*slot))?;
                check(slots, *slot, path, before)
            }
            Self::Attributes { path, new, .. } => {
                let object = tree.plain_object(path)?;
                if Entry::read(&object, path)?.as_ref() != before {
                    return Err(changed(path));
                }
                object.set_attributes(new.mode, new.uid, new.gid)?;
                Ok(())
            }
        }
    }

    /// Undoes the step, if it was done.
    ///
    /// # Errors
    /// Another object is in the way.
    pub fn undo(&self, tree: &Root, slots: &Root) -> Result<(), RootError> {
        match self {
            Self::Add { path, slot } => {
                if !slots.has(&slot_path(*slot))? && tree.has(path)? {
                    tree.move_to(path, slots, &slot_path(*slot))?;
                }
            }
            Self::Replace { path, slot, inode } => {
                let slot = slot_path(*slot);
                if slots.plain_object(&slot)?.inode()? == *inode {
                    return Ok(());
                }
                match tree.has(path)? {
                    true => tree.exchange(path, slots, &slot)?,
                    false => slots.move_to(&slot, tree, path)?,
                }
            }
            Self::Remove { path, slot } => {
                if slots.has(&slot_path(*slot))? {
                    slots.move_to(&slot_path(*slot), tree, path)?;
                }
            }
            Self::Attributes { path, old, .. } => {
                if tree.has(path)? {
                    let object = tree.plain_object(path)?;
                    object.set_attributes(old.mode, old.uid, old.gid)?;
                }
            }
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        match self {
            Self::Add { path, .. }
            | Self::Replace { path, .. }
            | Self::Remove { path, .. }
            | Self::Attributes { path, .. } => path,
        }
    }
}

/// Checks that a step took away the planned object.
fn check(slots: &Root, slot: u32, path: &Path, before: Option<&Entry>) -> Result<()> {
    let object = slots.plain_object(&slot_path(slot))?;
    let entry = Entry::read(&object, path)?;
    let is_dir = entry
        .as_ref()
        .is_some_and(|entry| entry.kind == Kind::Directory);
    if entry.as_ref() != before || (is_dir && !object.names()?.is_empty()) {
        return Err(changed(path));
    }
    Ok(())
}

fn changed(path: &Path) -> Error {
    Error::busy(format!(
        "'{}' was changed in the sandbox while it was upgraded; upgrade it again",
        path.display()
    ))
}

impl Journal {
    /// Name of the journal in the directory of an upgrade's records.
    pub const FILE: &str = "journal.json";

    /// Loads the journal in `records`; returns `None` if no step was done yet, or all were.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(records: &Path) -> Result<Option<Self>> {
        let path = records.join(Self::FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(Error::config(&path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("reading", &path)(error)),
        }
    }

    /// Writes the journal durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, records: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(Error::step("writing the journal"))?;
        atomic::write(&records.join(Self::FILE), &text, 0o600)?;
        Ok(())
    }

    /// Copies a file before it is written.
    ///
    /// # Errors
    /// The file cannot be copied.
    pub fn keep(&mut self, records: &Path, path: PathBuf) -> Result<()> {
        let copy = match fs::read(&path) {
            Ok(content) => {
                let copy = records.join(self.saved.len().to_string());
                atomic::write(&copy, &content, 0o600)?;
                Some(copy)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        self.saved.push(Saved { path, copy });
        Ok(())
    }

    /// Returns this journal without steps to undo: it only says where to clean up.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self {
            tree: self.tree.clone(),
            image: self.image,
            steps: vec![],
            saved: vec![],
            domain: None,
            restarting: self.restarting,
        }
    }

    /// Undoes all steps that can be undone, the last first; returns the first failure.
    fn undo_steps(&self, tree: &Path) -> Result<Option<RootError>> {
        let slots = Root::new(&Work::of(&self.tree, tree).slots())?;
        let tree = Root::new(tree)?;
        let mut failed = None;
        for step in self.steps.iter().rev() {
            if let Err(error) = step.undo(&tree, &slots) {
                log::warn!(
                    "undoing the upgrade of '{}': {error}",
                    step.path().display()
                );
                failed.get_or_insert(error);
            }
        }
        Ok(failed)
    }

    /// Undoes all done steps in the tree `tree`, the last first.
    ///
    /// # Errors
    /// A step cannot be undone; the others are.
    pub fn undo(&self, tree: &Path) -> Result<()> {
        let failed = match self.steps.is_empty() {
            true => None,
            false => self.undo_steps(tree)?,
        };
        for saved in &self.saved {
            match &saved.copy {
                Some(copy) => {
                    let content = fs::read(copy).map_err(Error::io("reading", copy))?;
                    let mode = if saved.path.extension().is_some_and(|end| end == "service") {
                        0o644
                    } else {
                        0o600
                    };
                    atomic::write(&saved.path, &content, mode)?;
                }
                None => drop(fs::remove_file(&saved.path)),
            }
        }
        match failed {
            None => Ok(()),
            Some(error) => Err(Error::step(format!(
                "undoing the upgrade; what was replaced is in '{}'",
                Work::of(&self.tree, tree).slots().display()
            ))(error)),
        }
    }
}

#[cfg(test)]
mod tests;
