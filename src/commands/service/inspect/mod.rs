//! Commands that show sandboxes and their logs.

pub mod logs;
pub mod security;
pub mod show;
pub mod stats;
pub mod top;
