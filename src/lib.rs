//! Run what is installed on a Linux host inside strong sandboxes.
//!
//! A sandbox is a libvirt domain that runs the host's own `/usr`; only its configuration and its
//! state are its own. The modules, in the order data flows through them:
//!
//! | module | what it owns |
//! |---|---|
//! | [`commands`] | the command lines |
//! | [`config`] | what the user asked for, on the command line and in `sandbox.toml` |
//! | [`host`] | facts about the host |
//! | [`domain`] | config and facts become libvirt XML |
//! | [`guest`] | what is staged for the guest |
//! | [`hypervisor`] | libvirt |
//! | [`label`] | SELinux and AppArmor |
//! | [`driver`] | what is particular to each of libvirt's drivers |
//! | [`console`] | the caller's streams, terminal and signals |
//! | [`run`] | one command in a throw-away sandbox |
//! | [`tree`] | the private tree of a sandbox: planned, then made |
//! | [`facts`] | facts of the host about a service: units, packages, accounts |
//! | [`service`] | the persistent sandbox of a service of the host |
//! | [`ports`] | ports that the host answers on |
//! | [`sys`] | leaf wrappers of the operating system |

pub mod commands;
pub mod config;
pub mod console;
pub mod domain;
pub mod driver;
pub mod error;
pub mod facts;
pub mod guest;
pub mod host;
pub mod hypervisor;
pub mod label;
pub mod ports;
pub mod run;
pub mod service;
pub mod sys;
pub mod tree;

pub use error::{Error, Result};
