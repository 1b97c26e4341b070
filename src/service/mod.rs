//! The persistent sandbox of a service of the host: what belongs to it is found, its tree is made, and it is
//! started, looked at, stopped and removed.
//!
//! Nothing here prints, and nothing here knows which hypervisor runs the sandbox.

pub mod accounts;
mod conf_d;
pub mod discover;
pub mod manifest;
pub mod package;
pub mod secrets;
pub mod sysusers;
pub mod tmpfiles;
pub mod tree;
pub mod unit;

use std::path::{Component, Path, PathBuf};

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
