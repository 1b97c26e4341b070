//! Giving up what the payload may not do. It is inherited by all that the payload starts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use caps::{CapSet, Capability};
use serde::Deserialize;

use crate::config::{Confinement, IdMap};
use crate::seccomp::filter;

/// What is of interest in a guest config: one that runs may be of another version.
#[derive(Debug, Default, Deserialize)]
pub struct Confined {
    /// The ids of its user namespace.
    pub idmap: Option<IdMap>,
    /// Restrictions on its payload: capabilities, system calls and paths of the kernel's.
    #[serde(default)]
    pub confinement: Confinement,
}

/// What the guest config in a file of the host says.
///
/// # Errors
/// Where it cannot be read.
pub fn of_config(path: &Path) -> Result<Confined> {
    let doing = || format!("reading '{}'", path.display());
    let text = fs::read(path).with_context(doing)?;
    serde_json::from_slice(&text).with_context(doing)
}

/// Takes capabilities out of the bounding set, so that no program gets them, and filters system calls.
///
/// # Errors
/// Where the kernel refuses.
pub fn confine(confinement: &Confinement) -> Result<()> {
    for name in &confinement.dropped {
        let Ok(capability) = name.parse::<Capability>() else {
            continue;
        };
        for set in [CapSet::Ambient, CapSet::Inheritable] {
            caps::drop(None, set, capability).with_context(|| format!("giving up {name}"))?;
        }
        match caps::drop(None, CapSet::Bounding, capability) {
            // libvirt may have taken it, or the kernel does not have it.
            Err(error) if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) => {
                return Err(error).with_context(|| format!("giving up {name}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
    confinement.filter.as_ref().map_or(Ok(()), filter::install)
}
