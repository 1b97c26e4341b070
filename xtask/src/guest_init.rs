//! Build of the static guest-init.
//!
//! guest-init is the first program in a root without a loader or libraries. Its
//! flags differ from the rest of the workspace, so it has a target directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::elf;

/// Builds guest-init, checks it, and puts it at `guest-init/guest-init` in the target directory.
pub fn build(release: bool) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("finding the workspace")?;
    let directory = crate::target_directory(workspace).join("guest-init");
    let target = target()?;

    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args([
        "build",
        "--quiet",
        "--package",
        "guest-init",
        "--bin",
        "guest-init",
    ]);
    cargo
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&directory);
    // The symbols are four fifths of the file, and each sandbox gets a copy.
    // Given with --target, the flags reach the target only, not build scripts.
    cargo.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C strip=symbols",
    );
    if release {
        cargo.arg("--release");
    }
    let status = cargo.status().context("running cargo")?;
    if !status.success() {
        bail!("building guest-init for {target} failed");
    }

    let built = directory
        .join(&target)
        .join(if release { "release" } else { "debug" })
        .join("guest-init");
    check(&built)?;
    let place = directory.join("guest-init");
    // Written beside and renamed: a running copy cannot be written to.
    let fresh = directory.join("guest-init.new");
    fs::copy(&built, &fresh).with_context(|| format!("copying '{}'", built.display()))?;
    fs::rename(&fresh, &place).with_context(|| format!("renaming '{}'", fresh.display()))?;
    let size = fs::metadata(&place).context("looking at guest-init")?.len();
    println!(
        "{} ({target}, {} KiB, static)",
        place.strip_prefix(workspace).unwrap_or(&place).display(),
        size / 1024
    );
    Ok(())
}

/// Returns the musl target if its standard library is installed, else the host's own.
fn target() -> Result<String> {
    let version = rustc(&["--version", "--verbose"])?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("asking rustc for its host")?;
    let musl = host.replace("-gnu", "-musl");
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
    let there = sysroot.join("lib/rustlib").join(&musl).join("lib").is_dir();
    Ok(if there { musl } else { host.to_owned() })
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(arguments)
        .output()
        .context("running rustc")?;
    if !output.status.success() {
        bail!(
            "rustc {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading '{}'", program.display()))?;
    let needs = elf::needs(&bytes).with_context(|| format!("reading '{}'", program.display()))?;
    if needs.interpreter || needs.libraries > 0 {
        bail!("'{}' is not static: {needs:?}", program.display());
    }
    let output = Command::new(program)
        .arg("--version")
        .output()
        .context("running guest-init")?;
    if !output.status.success() || output.stdout.is_empty() {
        bail!(
            "'{} --version' does not print its version: {}",
            program.display(),
            output.status
        );
    }
    Ok(())
}
