//! The sandboxes of a host.

use std::path::PathBuf;

use crate::error::Result;
use crate::host::HostFacts;
use crate::hypervisor::Connector;
use crate::service::cancellation::Cancellation;
use crate::service::store::Store;

/// The sandboxes of a host.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    /// Root of the host, `/` but in tests: its units, packages and accounts are read below.
    pub root: PathBuf,
    /// Paths of sandboxes on the host.
    pub store: Store,
    /// libvirt connection of new sandboxes.
    pub connection: String,
    /// Opens connections to libvirt.
    pub connector: Connector,
    /// Cancellation of operations.
    pub cancellation: Cancellation,
}

impl Sandboxes {
    /// Returns the sandboxes of this host; new ones use `connection`.
    #[must_use]
    pub fn new(connection: &str) -> Self {
        Self {
            root: "/".into(),
            store: Store::default(),
            connection: connection.to_owned(),
            connector: Connector::default(),
            cancellation: Cancellation::default(),
        }
    }

    /// Returns the same sandboxes with operations that `cancellation` can end early.
    #[must_use]
    pub fn cancelled_by(&self, cancellation: Cancellation) -> Self {
        Self {
            cancellation,
            ..self.clone()
        }
    }

    /// Probes the host. Mounts change while sandboxes start and stop, so the facts are good for one step.
    ///
    /// # Errors
    /// A system directory cannot be read.
    pub fn probe_host(&self) -> Result<HostFacts> {
        HostFacts::probe(&self.root)
    }

    /// Returns true if the operation shall end early.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_requested()
    }
}
