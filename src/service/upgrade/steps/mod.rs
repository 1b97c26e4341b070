//! Steps of an upgrade, and their undo.
//!
//! Objects of the host are prepared in slots beside the sandbox's tree, on its filesystem and out of its reach. A
//! step is one rename, or one exchange of two names: the replaced object is in the slot afterwards, so that the slots alone
//! show which steps were done. Files of the configuration are copied before they are written.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::service::journal::{Attributes, Saved, Step, UndoLog};
use crate::sys::file::{atomic, remove};
use crate::sys::root::{Root, RootError};
use crate::tree::manifest::{Entry, Kind};
use crate::tree::place;

impl From<&Entry> for Attributes {
    fn from(entry: &Entry) -> Self {
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
        }
    }
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
        self.remove()?;
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
    ///
    /// # Errors
    /// A directory cannot be removed.
    pub fn remove(&self) -> Result<()> {
        let removed = [&self.place, &self.tree]
            .map(|dir| remove::any(dir).map_err(Error::io("removing", dir)));
        Error::of_all(removed)
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

impl UndoLog {
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

    /// Returns this log without steps to undo.
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

    /// Undoes all done steps in the tree `tree`, the last first, and restores the saved files.
    ///
    /// # Errors
    /// All that cannot be undone; the rest is.
    pub fn undo(&self, tree: &Path) -> Result<()> {
        let saved = self.saved.iter().map(Saved::restore);
        if self.steps.is_empty() {
            return Error::of_all(saved);
        }
        let place = Work::of(&self.tree, tree).slots();
        let (tree, slots) = (Root::new(tree)?, Root::new(&place)?);
        let undone = self.steps.iter().rev().map(|step| {
            let (path, place) = (step.path().display(), place.display());
            let doing =
                format!("undoing the upgrade of '{path}'; what was replaced is in '{place}'");
            step.undo(&tree, &slots).map_err(Error::step(doing))
        });
        Error::of_all(undone.chain(saved))
    }
}

impl Saved {
    /// Writes the old content of the file, or removes it if it did not exist.
    fn restore(&self) -> Result<()> {
        let path = &self.path;
        let Some(copy) = &self.copy else {
            return remove::file(path).map_err(Error::io("removing", path));
        };
        let content = fs::read(copy).map_err(Error::io("reading", copy))?;
        let is_unit = path.extension().is_some_and(|end| end == "service");
        atomic::write(path, &content, if is_unit { 0o644 } else { 0o600 })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
