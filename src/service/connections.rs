//! Connections to libvirt for a command that looks at many sandboxes, of which most have the same one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::config::SandboxConfig;
use crate::error::Result;
use crate::hypervisor::libvirt::Libvirt;

/// Connections that are open, by what they lead to. Not to be kept over a long wait.
#[derive(Debug, Default)]
pub(super) struct Connections(BTreeMap<String, Libvirt>);

impl Connections {
    /// The connection of a sandbox.
    ///
    /// # Errors
    /// Where no daemon answers.
    pub(super) fn of(&mut self, config: &SandboxConfig) -> Result<&Libvirt> {
        match self.0.entry(config.connection.clone()) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(Libvirt::open(&config.connection)?)),
        }
    }
}
