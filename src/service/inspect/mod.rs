//! Looking at sandboxes: their status, their resources, their logs, what holds them back.

mod addresses;
pub mod journal;
mod parallel;
pub mod security;
pub mod stats;
pub mod summary;
