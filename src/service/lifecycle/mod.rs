//! The life of a sandbox: it starts, is ready, serves its ports, and stops; and what the host's systemd has of it.

mod autostart;
pub(crate) mod exit_status;
mod failure;
pub(crate) mod ports;
pub mod ready;
mod reload;
mod rotate;
mod start;
mod stop;
