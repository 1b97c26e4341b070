//! Confinement of a guest: capabilities, system calls and files of the kernel.

mod profile;

use std::path::Path;

use guest_init::config as guest;
use guest_init::seccomp::usual::{self, Confined};
use guest_init::seccomp::{Arch, Policy, Program};

use crate::config::{Confinement, Seccomp};
use crate::error::{Error, Result};
use crate::sys;

/// Paths that show the host's memory, keys, timers and hardware, or trigger its kernel; container runtimes cover them as well
/// (runtime-spec of OCI, and containerd's defaults).
const MASKED: [&str; 17] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/devices/virtual/powercap",
];

/// Paths that may only be read. libvirt makes `/proc/sys` read-only itself.
const READ_ONLY: [&str; 3] = ["/proc/bus", "/proc/fs", "/proc/irq"];

/// Returns the confinement of a guest on a host of the architecture `arch`.
///
/// # Errors
/// Where a profile cannot be read, or names system calls of an unknown architecture.
pub fn guest_confinement(
    confinement: &Confinement,
    confined: Confined,
    arch: sys::arch::Arch,
) -> Result<guest::Confinement> {
    let dropped = confinement.capabilities.dropped();
    Ok(guest::Confinement {
        dropped: dropped.iter().map(|name| format!("CAP_{name}")).collect(),
        filter: filter(&confinement.seccomp, confined, arch)?,
        masked: MASKED.map(Into::into).to_vec(),
        read_only: READ_ONLY.map(Into::into).to_vec(),
    })
}

fn filter(seccomp: &Seccomp, confined: Confined, arch: sys::arch::Arch) -> Result<Option<Program>> {
    let (policy, from): (Policy, &Path) = match seccomp {
        Seccomp::Off => return Ok(None),
        Seccomp::Default => (usual::policy(confined), Path::new("default")),
        Seccomp::Profile(path) => (profile::read(path, arch)?, path),
    };
    let arches = Arch::of_host(arch.name());
    if arches.is_empty() {
        return Err(Error::unsupported(format!(
            "system calls cannot be filtered: nothing is known of those of '{arch}'; use --seccomp off (seccomp = \"off\" in \
             sandbox.toml) to go without"
        )));
    }
    let program = policy.compile(arches);
    let doing = || format!("making the filter of system calls '{}'", from.display());
    program
        .map(Some)
        .map_err(|error| Error::step(doing())(error))
}
