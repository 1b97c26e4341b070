//! Runs programs that are installed on a Linux host inside strong sandboxes.
//!
//! A sandbox is a libvirt domain that runs the host's own `/usr`, with configuration and state of its own. The modules, from the
//! command line down:
//!
//! | module | what it owns |
//! |---|---|
//! | [`commands`] | command lines and printing |
//! | [`run`] | one command in a throw-away sandbox |
//! | [`service`] | operations on persistent sandboxes |
//! | [`tree`] | the private tree of a sandbox: its plan, its making, its manifest |
//! | [`driver`] | the differences between containers and virtual machines |
//! | [`facts`] | facts of the host about a service: units, packages, accounts |
//! | [`console`] | session between the caller's streams and terminal and the command |
//! | [`guest`] | files and configuration for the guest |
//! | [`hypervisor`] | interface to libvirt |
//! | [`label`] | SELinux and AppArmor |
//! | [`domain`] | libvirt documents, from configuration and facts |
//! | [`host`] | facts about the host: kernel, cgroups, mounts |
//! | [`ports`] | published ports |
//! | [`config`] | the user's request, from the command line and `sandbox.toml` |
//! | [`sys`] | wrappers of the operating system |
//! | [`error`] | errors and their kinds |

pub mod commands;
pub mod config;
pub mod console;
pub mod doctor;
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
