//! `virt-sandbox-service` as an admin uses it: the real program, the real libvirt, the real systemd.
//!
//! | module | subject |
//! |---|---|
//! | [`support`] | running the program, temporary units and files of the host, leftovers |
//! | [`life`] | from create to delete, and two sandboxes of one unit |
//! | [`isolation`] | the host is hidden from a sandbox |
//! | [`errors`] | mistakes: one line each, and nothing left behind |
//! | [`interruption`] | interrupted create and delete |
//! | [`lost`] | host resources that are gone |
//! | [`unpackaged`] | services of a host without a package database |
//! | [`units`] | units of an administrator: working and failing ones |
//! | [`kinds`] | every verb on units, commands and images |
//! | [`commands`] | commands in place of units: account and exit status |
//! | [`host`] | the host's unit of a sandbox, and restarts of libvirtd |
//! | [`devices`] | devices of the host in a container |
//! | [`drivers`] | every verb in containers and in virtual machines |
//! | [`images`] | virtual machines whose tree is in an image |
//! | [`snapshots`] | snapshots: create, revert, interruption |
//! | [`clones`], [`renames`] | clone and rename |
//! | [`archives`], [`hostile`] | export and import, and hostile archives |
//! | [`operations`] | autostart, edit, logs, rotate |
//! | [`tuning`] | changes of limits, and statistics |
//! | [`ports`] | published ports, and start on demand |
//! | [`trees`] | trees with every attribute that a copy could lose |
//! | [`undone`] | upgrades that fail, are killed, or meet a hostile sandbox |
//! | [`packages`] | packages that a test builds and installs |
//! | [`upgrade`] | upgrades after the host's packages have changed |
//! | [`legacy`] | conversion of sandboxes of libvirt-sandbox |
//! | [`virsh`] | start, shutdown and reboot by other clients of libvirt |
//! | [`limits`] | limits in the kernel, and a static address |
//!
//! Each test needs the private libvirtd of `make test` and is skipped without it.

// Test helpers may panic.
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
mod outdated;
mod packages;
mod ports;
mod renames;
mod snapshots;
mod support;
mod trees;
mod tuning;
mod undone;
mod units;
mod unpackaged;
mod upgrade;
mod virsh;
