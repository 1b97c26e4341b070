//! Ports that the host answers on: the sockets that listen, and the bytes from there into a sandbox.

pub mod forward;
pub mod listening;
