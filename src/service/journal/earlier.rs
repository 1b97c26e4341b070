//! Notes of interrupted commands as earlier versions wrote them, one file for each kind.

use std::fs;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::service::journal::{Intent, Kind};
use crate::service::store::Store;

/// Files of the notes in a sandbox's directory.
const NOTES: [(&str, Kind); 5] = [
    ("removal.json", Kind::Remove),
    ("frozen", Kind::Freeze),
    ("renaming.json", Kind::Rename),
    ("snapshot.json", Kind::Snapshot),
    ("upgrade/journal.json", Kind::Upgrade),
];

/// A note that exists.
pub(super) struct Note {
    pub(super) path: PathBuf,
    kind: Kind,
}

impl Store {
    /// Returns the notes of earlier versions about a sandbox.
    pub(super) fn earlier_notes(&self, name: &SandboxName) -> Vec<Note> {
        let notes = NOTES.map(|(file, kind)| Note {
            path: self.dir(name).join(file),
            kind,
        });
        let there = notes.into_iter().filter(|note| note.path.is_file());
        there.collect()
    }
}

impl Note {
    /// Reads the note: what follows the kind is written as in the journal.
    pub(super) fn read(&self) -> Result<Intent> {
        Ok(match self.kind {
            Kind::Remove => Intent::Remove(self.content()?),
            Kind::Freeze => Intent::Freeze,
            Kind::Rename => Intent::Rename(self.content()?),
            Kind::Snapshot => Intent::Snapshot(self.content()?),
            Kind::Upgrade => Intent::Upgrade(self.content()?),
        })
    }

    fn content<T: DeserializeOwned>(&self) -> Result<T> {
        let text = fs::read(&self.path).map_err(Error::io("reading", &self.path))?;
        serde_json::from_slice(&text).map_err(Error::config(&self.path))
    }
}
