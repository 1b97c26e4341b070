//! The persistent sandbox of a service of the host: what belongs to it is found, its tree is made, and it is
//! started, looked at, stopped and removed.
//!
//! Nothing here prints, and nothing here knows which hypervisor runs the sandbox.

mod abreast;
mod accounts;
mod activity;
mod addresses;
mod base;
mod boot;
pub mod clone;
mod command;
mod conf_d;
mod connections;
pub mod create;
pub mod discover;
mod edit;
mod ended;
pub mod export;
mod failure;
mod frozen;
mod host_unit;
mod identity;
pub mod image;
pub mod import;
pub mod journal;
pub mod lifecycle;
mod limits;
mod making;
pub mod manifest;
mod metadata;
pub mod package;
mod place;
mod ports;
mod preflight;
pub mod ready;
mod reload;
pub mod rename;
mod rotate;
pub mod sandboxes;
mod secrets;
pub mod security;
mod services_d;
pub mod snapshot;
pub mod stats;
pub mod store;
mod summary;
mod sysusers;
mod ties;
mod tmpfiles;
pub mod tree;
pub mod unit;
pub mod upgrade;

pub use create::{Plan, Request};
pub use ended::Failure;
pub use ports::Ports;
pub use sandboxes::Sandboxes;
pub use summary::Summary;

use std::path::{Component, Path, PathBuf};

crate::error::from_leaf!(package::PackageError, manifest::ScanError);

/// A path made absolute and normal by its text alone: no `.`, `..`, `//` or trailing slash.
fn normal(path: &Path) -> PathBuf {
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
