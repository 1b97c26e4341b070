//! Command lines: parsing and printing. The library does the work.

mod complete;
pub mod output;
pub mod run;
pub mod service;
pub mod virtiofsd;

use std::path::PathBuf;

use nix::sys::stat::{Mode, umask};

use crate::config::workload::environment as variables;
use crate::error::{Error, Result};

/// Sets a umask with which other users cannot change files that the programs create. Stricter bits of the caller's umask
/// stay.
fn restrict_umask() {
    let others_writing = Mode::S_IWGRP | Mode::S_IWOTH;
    umask(umask(others_writing) | others_writing);
}

/// Reads files with variables.
fn environment(files: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(Error::io("reading", file))?;
        variables.extend(variables::parse(&text, file)?);
    }
    Ok(variables)
}
