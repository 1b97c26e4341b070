//! The private tree of a sandbox, planned as data before anything is made.
//!
//! | module | what it owns |
//! |---|---|
//! | [`etc`](mod@etc) | what of the host's `/etc` is copied, and what stays out |
//! | [`var`] | the state and the empty directories of `/var`, `/srv`, `/home` and `/root` |
//! | `command` | directories that a command is given |
//! | [`files`] | the files that are written instead of copied: accounts, hosts, identity |
//! | [`apply`](mod@apply) | making the tree |
//! | [`manifest`] | what the tree was when it was made |
//! | `place` | where the tree is, and its mark |

pub mod apply;
mod command;
pub mod etc;
pub mod files;
pub mod manifest;
pub(crate) mod place;
pub mod var;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{SandboxConfig, State};
use crate::error::Result;
use crate::facts::discover::Service;

pub use apply::apply;

crate::error::from_leaf!(manifest::ScanError);

/// What becomes of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// It is copied; of a directory, what is below has entries of its own.
    Copied,
    /// It is copied from another place of the host, to which a link leads.
    CopiedFrom(PathBuf),
    /// It is a directory that starts empty, with the owner and mode of the host's.
    Empty,
    /// It is a directory made anew.
    Made {
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// It is written.
    Written {
        /// All of it.
        content: String,
        /// Permission bits; owner and group are those of the host's file, or root.
        mode: u32,
    },
    /// It is a symbolic link, made anew.
    Linked(PathBuf),
    /// It is on the host and stays out.
    LeftOut,
    /// The sandbox sees the host's, read-only.
    Shared,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copied | Self::CopiedFrom(_) => "copied",
            Self::Empty | Self::Made { .. } => "empty",
            Self::Written { .. } | Self::Linked(_) => "written",
            Self::LeftOut => "masked",
            Self::Shared => "shared read-only",
        })
    }
}

/// A path, its class and the fact that decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What becomes of it.
    pub class: Class,
    /// Why, as a phrase.
    pub reason: String,
}

/// The whole tree, parents before what they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreePlan {
    /// By absolute path in the sandbox, which is the path on the host too.
    pub entries: BTreeMap<PathBuf, Entry>,
    /// Paths with state of the service on the host that is copied.
    pub state: Vec<PathBuf>,
}

impl TreePlan {
    /// Plans the tree of `config` from the host below `root`.
    ///
    /// # Errors
    /// Where the host's files cannot be read.
    pub fn new(
        root: &Path,
        config: &SandboxConfig,
        service: &Service,
        state: State,
    ) -> Result<Self> {
        let mut plan = Self::default();
        etc::plan(&mut plan, root, service)?;
        var::plan(&mut plan, root, service, state)?;
        command::plan(&mut plan, root, config, service);
        files::plan(&mut plan, root, config, service);
        Ok(plan)
    }

    /// Sets what becomes of a path; a later decision replaces an earlier one.
    fn set(&mut self, path: impl Into<PathBuf>, class: Class, reason: impl Into<String>) {
        let entry = Entry {
            class,
            reason: reason.into(),
        };
        self.entries.insert(path.into(), entry);
    }

    /// Sets what becomes of a path nothing was decided about.
    fn set_new(&mut self, path: impl Into<PathBuf>, class: Class, reason: impl Into<String>) {
        self.entries.entry(path.into()).or_insert_with(|| Entry {
            class,
            reason: reason.into(),
        });
    }

    /// Sees to it that the directories above `path` are there.
    fn set_parents(&mut self, root: &Path, path: &Path, reason: &str) {
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| parent.parent().is_some())
        {
            let is_there = self
                .entries
                .get(parent)
                .is_some_and(|entry| !matches!(entry.class, Class::LeftOut));
            if is_there {
                continue;
            }
            let class = if crate::facts::discover::below(root, parent).is_dir() {
                Class::Empty
            } else {
                Class::Made {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                }
            };
            self.set(parent, class, reason);
        }
    }

    /// The plan as people read it: a line for every path, but one only for a whole directory that is
    /// treated alike for one reason.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut covered: Option<&Path> = None;
        let entries: Vec<(&PathBuf, &Entry)> = self.entries.iter().collect();
        for (index, (path, entry)) in entries.iter().enumerate() {
            if covered.is_some_and(|top| path.starts_with(top)) {
                continue;
            }
            let below = entries[index + 1..]
                .iter()
                .take_while(|(other, _)| other.starts_with(path));
            let (mut count, mut alike) = (0, true);
            for (_, other) in below {
                count += 1;
                alike &= other.class == entry.class && other.reason == entry.reason;
            }
            let shown = if count > 0 && alike {
                covered = Some(path);
                format!("{}/** ({count})", path.display())
            } else {
                path.display().to_string()
            };
            lines.push(format!(
                "{:<17} {shown}  [{}]",
                entry.class.to_string(),
                entry.reason
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests;
