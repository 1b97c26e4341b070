//! `virt-sandbox` as a user uses it: the real program, the real libvirt.
//!
//! | module | what it owns |
//! |---|---|
//! | [`support`] | the drivers, running the program, leftovers |
//! | [`streams`] | standard streams |
//! | [`outcome`] | how a command ends, and what is said of it |
//! | [`terminal`] | a command at a terminal |
//! | [`files`] | what a command sees of the host, and may change |
//! | [`identity`] | who it is, and where |
//! | [`images`] | filesystems in images, and disks |
//! | [`network`] | its networks |
//! | [`mistakes`] | command lines that are wrong, or only look |
//! | [`ends`] | limits, and what is left where something goes wrong |
//! | [`machine`] | what only virtual machines have |
//!
//! A case is a function of a [`support::Test`], which knows its driver; [`cases!`] makes a test of it for each driver.
//! Each needs the private libvirtd of `make test` and is skipped without it.

// Helpers of a test are part of it.
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
