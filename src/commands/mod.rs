//! The command lines: what is typed, and what is printed. What is done is the library's.

mod complete;
pub mod output;
pub mod run;
pub mod service;
pub mod virtiofsd;

use nix::sys::stat::{Mode, umask};

/// What the programs make is nobody else's to change, however little the caller's umask forbids. What it forbids beyond that
/// stays forbidden.
fn protect_what_is_made() {
    let others_writing = Mode::S_IWGRP | Mode::S_IWOTH;
    umask(umask(others_writing) | others_writing);
}
