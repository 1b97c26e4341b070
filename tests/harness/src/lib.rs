//! Shared code of the tests that need a real libvirt.
//!
//! | module | responsibility |
//! |---|---|
//! | [`libvirtd`] | starting a private libvirtd, telling the tests how to reach it, stopping it |
//! | [`user`] | an ordinary user with a libvirtd of their own |
//! | [`serve`] | the parent process of the daemons: it reaps their orphans and stops them |
//! | [`host`] | running programs, waiting, which lines of a snapshot belong to a test |
//! | [`guest`] | the smallest possible guest, for comparison |
//! | [`namespace`] | private state directories of a run, and the daemons' view of the host |
//! | [`network`] | the libvirt network `default` of the private daemon |
//! | [`programs`] | copies of the programs under test that every user can run |
//! | [`prey`] | the escape suite's targets on the host |
//! | [`snapshot`] | everything on the host that must be unchanged once a sandbox is gone |
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
