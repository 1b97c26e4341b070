//! PID 1 of a sandbox, and the contract between it and the host.
//!
//! The host writes a [`config::GuestConfig`] beside the init program in the staging root; the init
//! reads it once and *assembles* the sandbox from it. Both sides compile the same types, so the
//! contract cannot drift.
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`] | the guest config: what the host tells the guest |
//! | [`net`] | addresses and routes as they are written by people |
//! | [`network`] | bringing up the NICs (feature `init`) |
//! | [`netlink`] | links, addresses and routes of the kernel (feature `init`) |
//! | [`dhcp`] | a DHCPv4 client (feature `init`) |
//! | [`resolv`] | resolv.conf (feature `init`) |

pub mod config;
#[cfg(feature = "init")]
pub mod dhcp;
pub mod net;
#[cfg(feature = "init")]
pub mod netlink;
#[cfg(feature = "init")]
pub mod network;
#[cfg(feature = "init")]
pub mod resolv;
