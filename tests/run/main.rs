//! `virt-sandbox` as a user uses it: the real program, the real libvirt.
//!
//! | module | what it owns |
//! |---|---|
//! | [`support`] | the drivers, running the program, leftovers |
//! | [`streams`] | standard streams |
//! | [`outcome`] | how a command ends, and what is said of it |
//! | [`machine`] | what only virtual machines have |
//!
//! A case is a function of a [`support::Test`], which knows its driver; [`cases!`] makes a test of it for each driver.
//! Each needs the private libvirtd of `make test` and is skipped without it.

// Helpers of a test are part of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[macro_use]
mod support;

mod machine;
mod outcome;
mod streams;
