//! The table of system calls in guest-init's filter. A package of its own writes it: the crate that it is made from is large.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Writes the table into the sources.
pub fn build() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--locked", "--package", "syscall-table"])
        .status();
    if !status.context("running cargo")?.success() {
        bail!("writing the table of system calls failed");
    }
    Ok(())
}
