//! Inspection of sandboxes: status, resource usage, logs, and security report.

mod addresses;
pub mod journal;
pub mod outdated;
mod parallel;
pub mod security;
pub mod stats;
pub mod summary;
