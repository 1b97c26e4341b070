//! Boot id of the sandbox (sd_id128_get_boot(3)).
//!
//! A container shares its kernel with the host, and so the kernel's boot id: the journal would take all starts of a sandbox for
//! one boot. As in systemd-nspawn(1), a file with another id is mounted over that of the kernel.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::mount_ops::bind;

/// Boot id of the kernel (random(4)), or the file that is mounted over it.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Gives a fresh random UUID at every read (random(4)).
const FRESH: &str = "/proc/sys/kernel/random/uuid";

/// Gives the sandbox a boot id of its own. Whoever needs that of the host has to read it before.
pub fn replace() -> Result<()> {
    let file = Path::new("/run/virt-sandbox.boot-id");
    let id = fs::read(FRESH).with_context(|| format!("reading '{FRESH}'"))?;
    fs::write(file, id).with_context(|| format!("writing '{}'", file.display()))?;
    let bound = bind(file, Path::new(BOOT_ID), true);
    // The mount keeps the file.
    let _ = fs::remove_file(file);
    bound
}
