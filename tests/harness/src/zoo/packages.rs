//! Brings the host to the state a row asks for.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::table::Row;

/// Installs what is missing of `names`; nothing is started.
pub fn install(installer: &Path, names: &[&str]) -> Result<()> {
    script(installer, "install", names)
}

/// Purges what conflicts with a row and installs what it needs.
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
