//! The sandboxes of a host.

use crate::hypervisor::Connector;
use crate::service::cancellation::Cancellation;
use crate::service::store::Store;

/// The sandboxes of a host.
#[derive(Debug, Clone)]
pub struct Sandboxes {
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

    /// Returns true if the operation shall end early.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_requested()
    }
}
