//! Facts of the host about a service: what its units, its packages and its accounts say belongs to it.
//!
//! | module | what it owns |
//! |---|---|
//! | [`discover`] | everything that belongs to a service |
//! | [`unit`] | systemd units, read from their files |
//! | [`package`] | dpkg and rpm behind one trait |
//! | `accounts`, `sysusers` | users and groups, those that are there and those that a package declares |
//! | `tmpfiles`, `conf_d` | `tmpfiles.d`, and the directories of configuration that it shares with `sysusers.d` |
//! | `command` | program and account of a command |
//! | `secrets` | files that look like private keys |
//! | `in_use` | who is writing to the state of a service now |
//!
//! Everything is read and nothing is written. No module here knows sandboxes or libvirt.

pub(crate) mod accounts;
pub(crate) mod command;
mod conf_d;
pub mod discover;
pub(crate) mod in_use;
pub mod package;
pub(crate) mod secrets;
mod sysusers;
mod tmpfiles;
pub mod unit;

use std::path::{Component, Path, PathBuf};

crate::error::from_leaf!(package::PackageError);

/// Makes a path absolute and normal by its text alone: no `.`, `..`, `//` or trailing slash.
pub(crate) fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}
