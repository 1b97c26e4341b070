//! Life cycle of a sandbox: start, readiness, published ports, reload, stop, and start at boot.

mod autostart;
mod boot_log;
pub(crate) mod exit_status;
mod failure;
pub(crate) mod ports;
pub mod ready;
mod reload;
mod rotate;
mod start;
mod stop;
