//! Ending an operation before it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// A request to end an operation early, such as by SIGINT. It is asked for between two steps; whoever finds it undoes what was done.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// Returns the flag that requests it, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Returns whether it was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns [`Error::Interrupted`] once it was requested.
    pub(in crate::service) fn check(&self) -> Result<()> {
        match self.is_requested() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}
