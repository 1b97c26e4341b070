//! Build of the manual pages, in `man` in the target directory.
//!
//! A package of its own writes them: it links the whole product, and the other tasks must not wait for that.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Writes the manual pages from the product as built.
pub fn build(release: bool) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("finding the workspace")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace)
        .args(["run", "--quiet", "--locked", "--package", "manual"]);
    if release {
        cargo.arg("--release");
    }
    let directory = crate::target_directory(workspace).join("man");
    let status = cargo.arg("--").arg(&directory).status();
    if !status.context("running cargo")?.success() {
        bail!("writing the manual pages failed");
    }
    println!("{}", directory.display());
    Ok(())
}
