//! What the tests that need a real libvirt share.
//!
//! | module | what it owns |
//! |---|---|
//! | [`libvirtd`] | starting a private libvirtd, telling the tests how to reach it, stopping it |
//! | [`user`] | an ordinary user with a libvirtd of their own |
//! | [`serve`] | the process the daemons live under: it reaps their orphans and takes them down |
//! | [`host`] | running programs, waiting, what of a snapshot is a test's |
//! | [`guest`] | the smallest guest there can be, to compare with |
//! | [`namespace`] | private state directories of a run, and the daemons' view of the host |
//! | [`network`] | the libvirt network `default` of the private daemon |
//! | [`programs`] | copies of the programs under test that every user can run |
//! | [`prey`] | what the escape suite has on the host to be reached |
//! | [`snapshot`] | what must be as before once a sandbox is gone |
//! | [`whole`] | a whole host in a virtual machine |
//! | [`zoo`] | real services, created with nothing but their unit |
//!
//! Nothing here links libvirt or the crate under test: both are used as an admin would, by their
//! commands.

pub mod guest;
pub mod host;
pub mod libvirtd;
pub mod namespace;
pub mod network;
pub mod prey;
mod process;
pub mod programs;
pub mod serve;
pub mod snapshot;
pub mod user;
pub mod whole;
pub mod zoo;
