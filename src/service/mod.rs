//! Operations on persistent sandboxes.
//!
//! | module | what it owns |
//! |---|---|
//! | [`sandboxes`], `sandbox` | all sandboxes of a host; one sandbox, with and without its lock |
//! | [`store`] | paths of sandboxes on the host, and locks |
//! | [`provision`] | create, clone, rename, export, import, delete |
//! | [`lifecycle`] | start, stop, the host's units, published ports |
//! | `settings` | edits of the configuration, changes of limits |
//! | [`inspect`] | status, statistics, logs, the security report |
//! | [`upgrade`] | merge of changes of the host |
//! | `journal` | what a command has begun and not finished |
//! | [`snapshot`] | snapshots of a sandbox in an image |
//! | [`image`] | trees in images |
//! | `host_unit` | units of a sandbox for the host's systemd |
//! | `init_units` | units for systemd inside |
//! | `recovery` | completion or undo of interrupted commands |
//! | `render` | files and documents derived from a configuration |
//! | `preflight` | checks whether a service can work in a sandbox |
//!
//! No module here prints or knows which hypervisor runs a sandbox.

mod base;
mod cancellation;
mod connections;
mod host_unit;
pub mod image;
mod init_units;
pub mod inspect;
mod journal;
pub mod lifecycle;
mod preflight;
pub mod provision;
mod recovery;
mod render;
mod sandbox;
pub mod sandboxes;
mod settings;
pub mod snapshot;
pub mod store;
pub mod upgrade;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;

pub use cancellation::Cancellation;
pub use inspect::summary::Summary;
pub use lifecycle::exit_status::Failure;
pub use lifecycle::ports::Ports;
pub use provision::create::Plan;
pub use recovery::{Mode, Outcome, Repair};
pub use sandbox::{LockedSandbox, Sandbox};
pub use sandboxes::Sandboxes;
