//! `virt-sandbox-service` as an admin uses it: the real program, the real libvirt, the real systemd.
//!
//! | module | what it owns |
//! |---|---|
//! | [`support`] | running the program, units and files of the host for the time of a test, leftovers |
//! | [`life`] | from create to delete, and two sandboxes of one unit |
//! | [`isolation`] | what a sandbox does not see of the host |
//! | [`errors`] | one line for each mistake, and nothing left |
//! | [`interruption`] | create cut short |
//! | [`lost`] | what the host has lost since a sandbox was made of it |
//! | [`units`] | units of an admin: those that work and those that fail |
//! | [`kinds`] | every verb on units, commands and images |
//! | [`commands`] | what a command runs as, and how it ends |
//! | [`host`] | the host's unit of a sandbox, and libvirtd restarted |
//! | [`devices`] | devices of the host in a container |
//! | [`drivers`] | every verb in containers and in virtual machines |
//! | [`images`] | virtual machines whose tree is in an image |
//! | [`snapshots`] | snapshots kept, gone back to, and cut short |
//! | [`clones`], [`renames`] | a second sandbox like one, and another name for one |
//! | [`archives`], [`hostile`] | a sandbox exported and imported, and archives that mean harm |
//! | [`operations`] | what starts at boot, the configuration edited, the journal, log files rotated |
//! | [`tuning`] | limits changed, and what is used |
//! | [`ports`] | ports that the host answers on, and a sandbox started by who asks for one |
//! | [`trees`] | trees with all that a copy can lose |
//! | [`undone`] | upgrades that fail, are killed, or meet harm |
//! | [`packages`] | packages that a test builds and installs |
//! | [`upgrade`] | sandboxes brought along with packages of the host |
//! | [`legacy`] | sandboxes of libvirt-sandbox converted |
//! | [`limits`] | limits in the kernel, and a static address |
//!
//! Each test needs the private libvirtd of `make test` and is skipped without it.

// Helpers of a test are part of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod capabilities;
mod clones;
mod commands;
mod devices;
mod drivers;
mod errors;
mod host;
mod hostile;
mod images;
mod interruption;
mod isolation;
mod kills;
mod kinds;
mod legacy;
mod life;
mod limits;
mod lost;
mod machines;
mod operations;
mod packages;
mod ports;
mod renames;
mod snapshots;
mod support;
mod trees;
mod tuning;
mod undone;
mod units;
mod upgrade;
