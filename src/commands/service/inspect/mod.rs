//! Commands that show sandboxes, their logs, and the host.

pub mod doctor;
pub mod logs;
pub mod security;
pub mod show;
pub mod stats;
pub mod top;
