//! Commands that change the configuration of a sandbox.

pub mod edit;
pub mod set;
