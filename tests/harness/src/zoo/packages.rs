//! Installs and removes the packages of a row.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::table::Row;

/// Installs those of `names` that are missing; starts nothing.
pub fn install(installer: &Path, names: &[&str]) -> Result<()> {
    script(installer, "install", names)
}

/// Purges the packages that conflict with a row and installs those it needs.
pub fn prepare(installer: &Path, row: &Row) -> Result<()> {
    let conflicts: Vec<&str> = row.conflicts.iter().map(String::as_str).collect();
    script(installer, "purge", &conflicts)?;
    install(installer, &row.needs().collect::<Vec<_>>())
}

/// Configures the host's copy of the service.
pub fn set_up(row: &Row) -> Result<()> {
    let Some(setup) = &row.setup else {
        return Ok(());
    };
    let output = Command::new("sh")
        .args(["-c", setup])
        .stdin(Stdio::null())
        .output()
        .context("running 'sh'")?;
    if !output.status.success() {
        bail!("setup: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn script(installer: &Path, action: &str, names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let status = Command::new("bash")
        .arg(installer)
        .arg(action)
        .args(names)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("running '{}'", installer.display()))?;
    if !status.success() {
        bail!(
            "{} of packages failed",
            if action == "purge" {
                "purge"
            } else {
                "installation"
            }
        );
    }
    Ok(())
}
