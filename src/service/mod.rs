//! The persistent sandbox of a service of the host: what belongs to it is found, its tree is made, and it is
//! started, looked at, stopped and removed.
//!
//! Nothing here prints, and nothing here knows which hypervisor runs the sandbox.

pub mod accounts;
pub mod manifest;
pub mod secrets;
pub mod unit;
