//! `cargo xtask`: builds the generated files of virt-sandbox.

mod elf;
mod guest_init;
mod man;
mod syscalls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask guest-init|man [--release], or syscalls";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the directory that cargo builds in.
fn target_directory(workspace: &Path) -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR").filter(|named| !named.is_empty());
    workspace.join(named.unwrap_or_else(|| "target".into()))
}

fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["guest-init"] => guest_init::build(false),
        ["guest-init", "--release"] => guest_init::build(true),
        ["man"] => man::build(false),
        ["man", "--release"] => man::build(true),
        ["syscalls"] => syscalls::build(),
        _ => bail!(USAGE),
    }
}
