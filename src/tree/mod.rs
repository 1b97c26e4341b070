//! Private tree of a sandbox, planned as data before anything is created.
//!
//! | module | what it owns |
//! |---|---|
//! | [`etc`](mod@etc) | the parts of the host's `/etc` that are copied, and those that stay out |
//! | [`var`] | state and empty directories in `/var`, `/srv`, `/home` and `/root` |
//! | `command` | working directory and home of a command |
//! | [`files`] | files that are written rather than copied: accounts, hosts, identity |
//! | [`apply`](mod@apply) | creation of the tree |
//! | [`manifest`] | record of the tree at its creation |
//! | `place` | location of the tree, and its mark |

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
use crate::sys::path::below;

pub use apply::apply;

impl crate::error::LowerError for manifest::ScanError {}

/// Treatment of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// Copied; for a directory, its content has its own entries.
    Copied,
    /// Copied from another place of the host, the target of a link.
    CopiedFrom(PathBuf),
    /// An empty directory, with the owner and mode of the host's.
    Empty,
    /// A new directory.
    Made {
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A written file.
    Written {
        /// Content.
        content: String,
        /// Permission bits; owner and group are those of the host's file, or root.
        mode: u32,
    },
    /// A new symbolic link.
    Linked(PathBuf),
    /// Left out, although it exists on the host.
    LeftOut,
    /// Shared read-only with the host.
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

/// Class of a path, and the fact that decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Treatment.
    pub class: Class,
    /// Reason, as a phrase.
    pub reason: String,
}

/// The whole tree; parents come before their content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreePlan {
    /// Entries by absolute path, which is the same in the sandbox and on the host.
    pub entries: BTreeMap<PathBuf, Entry>,
    /// Paths with state of the service that is copied.
    pub state: Vec<PathBuf>,
}

impl TreePlan {
    /// Plans the tree of `config` from the host below `root`.
    ///
    /// # Errors
    /// The host's files cannot be read.
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

    /// Sets the class of a path; a later call replaces an earlier one.
    fn set(&mut self, path: impl Into<PathBuf>, class: Class, reason: impl Into<String>) {
        let entry = Entry {
            class,
            reason: reason.into(),
        };
        self.entries.insert(path.into(), entry);
    }

    /// Sets the class of a path that has none yet.
    fn set_new(&mut self, path: impl Into<PathBuf>, class: Class, reason: impl Into<String>) {
        self.entries.entry(path.into()).or_insert_with(|| Entry {
            class,
            reason: reason.into(),
        });
    }

    /// Adds the directories above `path`.
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
            let class = if below(root, parent).is_dir() {
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

    /// Formats the plan for people: a line for each path, but only one for a whole directory that is
    /// treated alike for the same reason.
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
