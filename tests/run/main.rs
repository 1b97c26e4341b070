//! `virt-sandbox` as a user uses it: the real program, the real libvirt.
//!
//! | module | subject |
//! |---|---|
//! | [`support`] | the drivers, running the program, leftovers |
//! | [`streams`] | standard streams |
//! | [`outcome`] | the command's end, and messages about it |
//! | [`terminal`] | a command at a terminal |
//! | [`files`] | a command's view of the host's files, and its changes |
//! | [`identity`] | user, capabilities, environment |
//! | [`images`] | filesystems in images, and disks |
//! | [`network`] | networks |
//! | [`mistakes`] | wrong command lines, and `--dry-run` |
//! | [`ends`] | limits, failures, leftovers |
//! | [`machine`] | features of virtual machines only |
//!
//! A case is a function that takes a [`support::Test`], which knows its driver; [`cases!`] makes a test of it for each driver.
//! Each needs the private libvirtd of `make test` and is skipped without it.

// Test helpers may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[macro_use]
mod support;

mod ends;
mod files;
mod identity;
mod images;
mod machine;
mod mistakes;
mod network;
mod outcome;
mod streams;
mod terminal;
