//! The sandboxes of a host.

use crate::service::cancellation::Cancellation;
use crate::service::store::Store;

/// The sandboxes of a host.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    /// Their places on the host.
    pub store: Store,
    /// The libvirt connection of new ones.
    pub connection: String,
    /// Ends operations on them early.
    pub cancellation: Cancellation,
}

impl Sandboxes {
    /// Returns the sandboxes of this host, with `connection` for new ones.
    #[must_use]
    pub fn new(connection: &str) -> Self {
        Self {
            store: Store::default(),
            connection: connection.to_owned(),
            cancellation: Cancellation::default(),
        }
    }

    /// Returns the same sandboxes, with operations on them that `cancellation` ends early.
    #[must_use]
    pub fn cancelled_by(&self, cancellation: Cancellation) -> Self {
        Self {
            cancellation,
            ..self.clone()
        }
    }

    /// Returns whether an operation is to end early.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_requested()
    }
}
