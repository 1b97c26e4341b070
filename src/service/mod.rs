//! The persistent sandbox of a service of the host.

pub mod accounts;
pub mod manifest;
pub mod secrets;
