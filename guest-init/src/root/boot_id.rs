//! An identity of this boot, as of sd_id128_get_boot(3).
//!
//! A container shares its kernel with the host, and so what the kernel says of its boot: in the journal all starts of a
//! sandbox would be one. As systemd-nspawn(1) does, another file is laid over that of the kernel.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::root;

/// What the kernel, or who laid something over it, says of the boot (random(4)).
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where the kernel gives a fresh random UUID at every read.
const FRESH: &str = "/proc/sys/kernel/random/uuid";

/// Gives the sandbox a boot id of its own. What is told by the host's has to be read before.
///
/// # Errors
/// Where it may not mount.
pub fn own() -> Result<()> {
    let file = Path::new("/run/virt-sandbox.boot-id");
    let id = fs::read(FRESH).with_context(|| format!("reading '{FRESH}'"))?;
    fs::write(file, id).with_context(|| format!("writing '{}'", file.display()))?;
    let bound = root::bind(file, Path::new(BOOT_ID), true);
    // The mount keeps it.
    let _ = fs::remove_file(file);
    bound
}
