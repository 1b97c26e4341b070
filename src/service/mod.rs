//! Persistent sandboxes: the operations on them.
//!
//! | module | what it owns |
//! |---|---|
//! | [`sandboxes`], `sandbox` | the sandboxes of a host; one of them, and one of them under its lock |
//! | [`store`] | the places of sandboxes on the host, their locks |
//! | [`provision`] | create, clone, rename, export, import, delete |
//! | [`lifecycle`] | start, stop, the host's units, published ports |
//! | `settings` | the configuration edited, limits changed |
//! | [`inspect`] | status, statistics, logs, the security report |
//! | [`upgrade`] | a sandbox brought along with the host |
//! | [`snapshot`] | the past of a sandbox in an image |
//! | [`image`] | trees in images |
//! | `host_unit` | what the host's systemd has of a sandbox |
//! | `init_units` | units that a sandbox is given |
//! | `recovery` | commands that were cut short, finished or undone |
//! | `render` | what is derived from a configuration |
//! | `preflight` | checks whether a service can work in a sandbox |
//!
//! Nothing here prints, and nothing here knows which hypervisor runs the sandbox.

mod base;
mod cancellation;
mod connections;
mod host_unit;
pub mod image;
mod init_units;
pub mod inspect;
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

pub use cancellation::Cancellation;
pub use inspect::summary::Summary;
pub use lifecycle::exit_status::Failure;
pub use lifecycle::ports::Ports;
pub use provision::create::{Plan, Request};
pub use sandbox::{LockedSandbox, Sandbox};
pub use sandboxes::Sandboxes;
