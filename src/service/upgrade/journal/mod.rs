//! The steps of an upgrade, and how a part of them is undone.
//!
//! All that comes from the host is made ready in slots beside the sandbox's tree, on its filesystem and out of its reach. A
//! step is one rename, or one exchange of two names: what it replaces is in the slot afterwards, so that the slots alone
//! tell which steps were done. Files of the configuration are copied before they are written.

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

/// What an upgrade is about to do, written before its first step and removed after its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Journal {
    /// The place of the tree.
    pub tree: PathBuf,
    /// The image beside that place, if the tree is in one.
    #[serde(default)]
    pub image: Option<TreeImage>,
    /// The steps in it.
    pub steps: Vec<Step>,
    /// Files of the host that are written.
    pub saved: Vec<Saved>,
    /// The document of a domain that is replaced and was not ours.
    pub domain: Option<String>,
    /// Whether the sandbox is being restarted.
    pub restarting: bool,
}

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
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

/// One step in the tree. Paths are those inside; slots are numbered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Step {
    /// What is in the slot is put where nothing is.
    Add { path: PathBuf, slot: u32 },
    /// What is in the slot, which has this inode, and what is at the path change places.
    Replace {
        path: PathBuf,
        slot: u32,
        inode: u64,
    },
    /// What is at the path goes to the slot.
    Remove { path: PathBuf, slot: u32 },
    /// Mode and owner change.
    Attributes {
        path: PathBuf,
        old: Attributes,
        new: Attributes,
    },
}

/// A file of the host, and where its content before the upgrade is; nowhere if it was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Saved {
    pub path: PathBuf,
    pub copy: Option<PathBuf>,
}

fn slot_path(slot: u32) -> PathBuf {
    PathBuf::from(format!("/{slot}"))
}

/// The places of an upgrade's work. Only the slots have to be on the filesystem of the tree: an image may have little room.
#[derive(Debug)]
pub struct Work {
    /// On the host.
    place: PathBuf,
    /// In the tree; the same, unless that is in an image.
    tree: PathBuf,
}

impl Work {
    /// Those of the tree with the top `tree`, whose place on the host is `place`.
    #[must_use]
    pub fn of(place: &Path, tree: &Path) -> Self {
        Self {
            place: place::work_of(place),
            tree: place::work_of(tree),
        }
    }

    /// Makes the places anew.
    ///
    /// # Errors
    /// Where they cannot be made.
    pub fn make(&self) -> Result<()> {
        self.remove();
        for dir in [&self.host(), &self.slots()] {
            fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        }
        Ok(())
    }

    /// Where the host's version of the tree is made.
    #[must_use]
    pub fn host(&self) -> PathBuf {
        self.place.join("host")
    }

    /// Where the slots are.
    #[must_use]
    pub fn slots(&self) -> PathBuf {
        self.tree.join("slots")
    }

    /// Removes all of it.
    pub fn remove(&self) {
        remove_tree(&self.place);
        remove_tree(&self.tree);
    }
}

impl Step {
    /// Does it. `before` is what the plan was made for: should the sandbox have changed it meanwhile, it is an error.
    ///
    /// # Errors
    /// Where a link or something else is in the way, and where the sandbox has changed it.
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

    /// Undoes it, if it was done.
    ///
    /// # Errors
    /// Where something is in the way.
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

/// Whether what a step took away is what it was planned for.
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

    /// Reads the journal in `records`; none where no step was done yet, or all were.
    ///
    /// # Errors
    /// Where it cannot be read.
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

    /// Writes the journal. When this returns it is on disk.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, records: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(Error::step("writing the journal"))?;
        atomic::write(&records.join(Self::FILE), &text, 0o600)?;
        Ok(())
    }

    /// Copies a file before it is written.
    ///
    /// # Errors
    /// Where it cannot be copied.
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

    /// This without anything to undo: it only tells where to clean up.
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

    /// Undoes all steps that can be undone, the last first; gives the first failure.
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

    /// Undoes what was done, the last first; the tree has the top `tree`.
    ///
    /// # Errors
    /// Where a step cannot be undone; the others are.
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
