//! The persistent sandbox of a service, and the facts about the host it is made from.
//!
//! The modules under here read; what is made of the facts is decided by their callers.

mod conf_d;
pub mod package;
pub mod sysusers;
pub mod tmpfiles;

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
