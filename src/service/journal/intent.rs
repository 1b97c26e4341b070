//! Kinds of intents, and what each records.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{SandboxConfig, SandboxName, SnapshotName, TreeImage};

/// Command that is at work on a sandbox, or was cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intent {
    /// Remove the sandbox: it is being deleted, or not complete yet.
    Remove(Removal),
    /// Freeze the sandbox while it is read.
    Freeze,
    /// Give the sandbox another name.
    Rename(Box<Renaming>),
    /// Change the snapshots, or revert to one.
    Snapshot(SnapshotIntent),
    /// Upgrade the sandbox.
    Upgrade(UndoLog),
}

/// Kind of an intent, in the order of recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Remove,
    Freeze,
    Rename,
    Snapshot,
    Upgrade,
}

/// Parts of a sandbox to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Removal {
    /// libvirt connection of its domain.
    pub connection: String,
    /// Identity, as in the mark of its tree.
    pub uuid: Uuid,
    /// Tree, once it is marked.
    pub tree: Option<PathBuf>,
    /// Image with the tree, once it was created.
    #[serde(default)]
    pub image: Option<PathBuf>,
    /// True once its unit and its domain exist.
    pub registered: bool,
}

/// Rename of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Renaming {
    /// Old configuration.
    pub old: SandboxConfig,
    /// New configuration.
    pub new: SandboxConfig,
    /// True if the host's systemd starts it at boot.
    pub enabled: bool,
}

/// Work on the snapshots of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum SnapshotIntent {
    /// Empty the work directory.
    Discard,
    /// Install the image in the work directory as the sandbox's, and derive the rest.
    Revert {
        /// Snapshot.
        snapshot: SnapshotName,
        /// Configuration in the snapshot.
        old: Box<SandboxConfig>,
        /// New configuration of the sandbox.
        new: Box<SandboxConfig>,
    },
}

/// Steps of an upgrade, to undo it. Without steps it only says where to clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UndoLog {
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

/// One step of an upgrade in the tree. Paths are relative to the sandbox's root; slots are numbered.
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

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// File of the host with the copy of its old content; `None` if it did not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub path: PathBuf,
    pub copy: Option<PathBuf>,
}

impl Intent {
    /// Returns its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Remove(_) => Kind::Remove,
            Self::Freeze => Kind::Freeze,
            Self::Rename(_) => Kind::Rename,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::Upgrade(_) => Kind::Upgrade,
        }
    }

    /// Returns the interrupted command, for messages.
    #[must_use]
    pub fn found(&self) -> String {
        match self {
            Self::Remove(_) => "an interrupted create or delete".to_owned(),
            Self::Freeze => "frozen by an interrupted command".to_owned(),
            Self::Rename(rename) => format!(
                "an interrupted rename of '{}' to '{}'",
                rename.old.name, rename.new.name
            ),
            Self::Snapshot(SnapshotIntent::Discard) => "an interrupted snapshot command".to_owned(),
            Self::Snapshot(SnapshotIntent::Revert { snapshot, .. }) => {
                format!("an interrupted revert to the snapshot '{snapshot}'")
            }
            Self::Upgrade(_) => "an interrupted upgrade".to_owned(),
        }
    }

    /// Returns what recovery of the sandbox `name` does about it, for messages.
    #[must_use]
    pub fn remedy(&self, name: &SandboxName) -> &'static str {
        match self {
            // The directory has the old name still.
            Self::Rename(rename) if rename.old.name == *name => "keep the old name",
            Self::Remove(_) => "remove what is left",
            Self::Freeze => "let it run on",
            Self::Rename(_) | Self::Snapshot(SnapshotIntent::Revert { .. }) => "finish it",
            Self::Snapshot(SnapshotIntent::Discard) => "remove its work files",
            Self::Upgrade(log) if log.saved.is_empty() => "remove its work files",
            Self::Upgrade(_) => "undo it",
        }
    }
}
