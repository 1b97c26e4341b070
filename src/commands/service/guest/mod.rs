//! Commands that run something in a running sandbox.

pub mod execute;
pub mod rotate;
