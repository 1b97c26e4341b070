//! Journal of a sandbox: what a command has begun and not finished yet.
//!
//! A command writes its intent durably before its first step, and takes it away after its last, with the lock of the
//! sandbox held. If it is killed, the next command finds the intent ([`recover`](crate::service::Sandboxes::recover)).
//! Every step may be repeated.
//!
//! | verb | intent | commit point | recovery before it | and after it |
//! |---|---|---|---|---|
//! | `create`, `clone`, `import` | [`Intent::Remove`] | the intent is taken away | the new sandbox is removed | nothing to do |
//! | `delete` | [`Intent::Remove`] | the intent is written | nothing to do | the rest is removed |
//! | `rename` | [`Intent::Rename`] | the directory has the new name | the intent is dropped | the rename is finished |
//! | `export`, `clone`, `snapshot create` of a running sandbox | [`Intent::Freeze`] | none | it runs on | it runs on |
//! | `snapshot create`, `delete` | [`SnapshotIntent::Discard`] | the snapshot gets or loses its name | work files are removed | the same |
//! | `snapshot revert` | [`SnapshotIntent::Revert`] after `Discard` | `Revert` replaces `Discard` | work files are removed | the revert is finished |
//! | `upgrade` | [`Intent::Upgrade`] | the intent has no steps any more | the steps are undone, and it is restarted if it was being so | work files are removed |
//!
//! An intent to freeze may be open together with another one. An intent to remove includes all others.

mod earlier;
mod intent;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::service::store::Store;
use crate::sys::file::{atomic, remove};

pub use intent::{
    Attributes, Intent, Kind, Removal, Renaming, Saved, SnapshotIntent, Step, UndoLog,
};

impl Store {
    /// Returns the open intents of a sandbox, the one to recover first at the beginning.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) fn intents(&self, name: &SandboxName) -> Result<Vec<Intent>> {
        let path = self.journal(name);
        let mut intents: Vec<Intent> = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(Error::config(&path))?,
            Err(error) if error.kind() == ErrorKind::NotFound => vec![],
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        for note in self.earlier_notes(name) {
            intents.push(note.read()?);
        }
        intents.sort_by_key(Intent::kind);
        intents.dedup_by_key(|intent| intent.kind());
        Ok(intents)
    }

    /// Returns true if a sandbox has an open intent of this kind.
    pub(super) fn has_intent(&self, name: &SandboxName, kind: Kind) -> Result<bool> {
        let intents = self.intents(name)?;
        Ok(intents.iter().any(|intent| intent.kind() == kind))
    }

    /// Returns the files of a sandbox's journal that exist, without reading them.
    pub(super) fn journal_files(&self, name: &SandboxName) -> Vec<PathBuf> {
        let earlier = self.earlier_notes(name).into_iter().map(|note| note.path);
        let all = std::iter::once(self.journal(name)).chain(earlier);
        all.filter(|path| path.exists()).collect()
    }

    /// Writes an intent durably, in place of an earlier one of its kind. The caller holds the sandbox's lock.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn begin(&self, name: &SandboxName, intent: Intent) -> Result<()> {
        let mut intents = self.intents(name)?;
        intents.retain(|open| open.kind() != intent.kind());
        intents.push(intent);
        self.write_journal(name, &intents)
    }

    /// Takes an intent away durably: it is carried out or undone. The caller holds the sandbox's lock.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn end(&self, name: &SandboxName, kind: Kind) -> Result<()> {
        let mut intents = self.intents(name)?;
        intents.retain(|open| open.kind() != kind);
        self.write_journal(name, &intents)
    }

    fn write_journal(&self, name: &SandboxName, intents: &[Intent]) -> Result<()> {
        let path = self.journal(name);
        if intents.is_empty() {
            remove::file_durably(&path).map_err(Error::io("removing", &path))?;
        } else {
            let text = serde_json::to_vec(intents).map_err(Error::step("writing a journal"))?;
            atomic::write(&path, &text, 0o600)?;
        }
        // All of them are in the journal by now, or done.
        for note in self.earlier_notes(name) {
            remove::file(&note.path).map_err(Error::io("removing", &note.path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
