//! The persistent sandbox of a service of the host: what belongs to it is found, its tree is made, and it is
//! started, looked at, stopped and removed.
//!
//! Nothing here prints, and nothing here knows which hypervisor runs the sandbox.

mod abreast;
mod addresses;
mod base;
mod boot;
pub mod clone;
mod connections;
pub mod create;
mod edit;
mod ended;
pub mod export;
mod failure;
mod frozen;
mod host_unit;
mod identity;
pub mod image;
pub mod import;
mod init_units;
pub mod journal;
pub mod lifecycle;
mod limits;
mod making;
mod metadata;
mod ports;
mod preflight;
pub mod ready;
mod reload;
pub mod rename;
mod rotate;
pub mod sandboxes;
pub mod security;
pub mod snapshot;
pub mod stats;
pub mod store;
mod summary;
mod ties;
pub mod upgrade;

pub use create::{Plan, Request};
pub use ended::Failure;
pub use ports::Ports;
pub use sandboxes::Sandboxes;
pub use summary::Summary;
