//! Config and facts become libvirt XML. Pure: neither libvirt nor the filesystem is asked.

pub mod lxc;
pub mod template;

use std::path::PathBuf;

/// A host directory or file that libvirt places in the staging root.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Filesystem {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the staging root.
    pub target: PathBuf,
    /// Whether the sandbox may only read it.
    pub read_only: bool,
}
