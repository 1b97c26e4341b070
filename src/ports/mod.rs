//! Ports of the host that lead into a sandbox: listening sockets, and forwarding.

pub mod forward;
pub mod listening;
