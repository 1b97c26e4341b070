//! Facts of the host about a service, from its units, packages and accounts.
//!
//! | module | what it owns |
//! |---|---|
//! | [`discover`] | everything that belongs to a service |
//! | [`unit`](mod@unit) | systemd units, read from their files |
//! | [`package`] | dpkg, rpm and pacman behind one trait |
//! | `accounts`, `sysusers` | users and groups: existing ones and those that a package declares |
//! | `tmpfiles`, `conf_d` | `tmpfiles.d`, and the search path that it shares with `sysusers.d` |
//! | `command` | program and account of a command |
//! | `secrets` | files that look like private keys |
//! | `in_use` | units and processes that write to the state of a service |
//!
//! The modules only read, and know neither sandboxes nor libvirt.

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

use crate::error::{ErrorKind, LowerError};

impl LowerError for package::PackageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInstalled { .. } => ErrorKind::NotFound,
            Self::Read { .. } | Self::Start { .. } | Self::Failed { .. } => ErrorKind::Io,
        }
    }
}
