//! Restrictions of the payload. All its children inherit them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use caps::{CapSet, Capability};
use serde::Deserialize;

use crate::config::{Confinement, IdMap};
use crate::seccomp::filter;

/// Part of a guest config that `enter` needs. A running sandbox may have a config of another version.
#[derive(Debug, Default, Deserialize)]
pub struct Confined {
    /// Ids of its user namespace.
    pub idmap: Option<IdMap>,
    /// Restrictions of its payload.
    #[serde(default)]
    pub confinement: Confinement,
    /// Variables of every command.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

/// Reads a guest config from a file of the host.
pub fn read_config(path: &Path) -> Result<Confined> {
    let doing = || format!("reading '{}'", path.display());
    let text = fs::read(path).with_context(doing)?;
    serde_json::from_slice(&text).with_context(doing)
}

/// Drops capabilities from the bounding set, so that no program gets them, and installs the filter of system calls.
pub fn confine(confinement: &Confinement) -> Result<()> {
    for name in &confinement.dropped {
        let Ok(capability) = name.parse::<Capability>() else {
            continue;
        };
        for set in [CapSet::Ambient, CapSet::Inheritable] {
            caps::drop(None, set, capability).with_context(|| format!("giving up {name}"))?;
        }
        match caps::drop(None, CapSet::Bounding, capability) {
            // Dropped by libvirt already, or unknown to the kernel.
            Err(error) if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) => {
                return Err(error).with_context(|| format!("giving up {name}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
    confinement.filter.as_ref().map_or(Ok(()), filter::install)
}
