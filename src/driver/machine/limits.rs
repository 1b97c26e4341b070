//! Limits of a virtual machine that runs.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use super::inside::{Machine, PATIENCE};
use crate::config::Resources;
use crate::config::resources::DEFAULT_MACHINE_MEMORY;
use crate::domain::tune::{CPU_PERIOD_US, quota_us};
use crate::driver::Inside;
use crate::error::{Error, Result};
use crate::hypervisor::Limit;

/// Memory is taken back, up to what the machine was started with; CPUs come and go, up to those of the host.
pub(in crate::driver) fn limit(resources: &Resources, key: &str) -> Option<Limit> {
    match key {
        "memory" => Some(Limit::Balloon(
            resources.memory.unwrap_or(DEFAULT_MACHINE_MEMORY).kibi(),
        )),
        "cpus" => Some(Limit::VirtualCpus(resources.cpus.unwrap_or(1))),
        // Without one, what is usual is up to libvirt.
        "cpu-pinning" => resources.cpu_pinning.clone().map(Limit::Pinning),
        "cpu-quota" => Some(Limit::CpuQuota {
            quota: resources.cpu_quota.map(quota_us),
            period: CPU_PERIOD_US,
        }),
        _ => None,
    }
}

/// CPUs that a machine can have while it runs: those of the host, of which a machine without an IOMMU has 255 at most.
pub(super) fn most_cpus(resources: &Resources) -> u32 {
    let of_host = thread::available_parallelism().map_or(1, NonZero::get);
    let of_host = u32::try_from(of_host).unwrap_or(u32::MAX).min(255);
    resources.cpus.unwrap_or(1).max(of_host)
}

/// Takes CPUs into use that came, which nothing else in a guest does, and says how many there are. One that is on its way out
/// is left alone.
const ONLINE: &str = r#"
for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do
    [ "$(getconf _NPROCESSORS_ONLN)" -lt "$1" ] || break
    read -r is <"$cpu" && [ "$is" = 0 ] && echo 1 >"$cpu"
done 2>/dev/null
getconf _NPROCESSORS_ONLN
"#;

/// What a kernel of its own keeps for itself, and some to breathe, in KiB.
const RESERVE: u64 = 128 << 10;

/// A balloon takes what it is told to, and a kernel without free memory answers nobody and ends its services: it is asked before.
pub(super) fn bears(machine: &Machine, limit: &Limit) -> Result<()> {
    let Limit::Balloon(kib) = limit else {
        return Ok(());
    };
    let captured = machine.capture(&["cat", "/proc/meminfo"])?;
    match least_memory(&captured.stdout) {
        Some(least) if least > *kib => Err(Error::refused(format!(
            "its kernel does not do with less than {}M",
            least >> 10
        ))),
        Some(_) | None => Ok(()),
    }
}

/// What cannot be taken away, in KiB, from what `/proc/meminfo` says (proc_meminfo(5)).
fn least_memory(meminfo: &str) -> Option<u64> {
    let value = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let used = value("MemTotal:")?.saturating_sub(value("MemAvailable:")?);
    Some(used + RESERVE)
}

/// Waits until the guest has what it was given, and takes it into use.
pub(super) fn adapt(machine: &Machine, limit: &Limit) -> Result<()> {
    let wanted = match limit {
        Limit::VirtualCpus(count) => *count,
        Limit::Balloon(_)
        | Limit::Memory(_)
        | Limit::Pinning(_)
        | Limit::CpuShares(_)
        | Limit::CpuQuota { .. }
        | Limit::IoWeight(_) => return Ok(()),
    };
    let (begin, count) = (Instant::now(), wanted.to_string());
    loop {
        let said = machine.capture(&["/bin/sh", "-c", ONLINE, "online", &count]);
        let said = said?.stdout;
        if said.trim().parse() == Ok(wanted) {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(Error::refused(format!(
                "its kernel has {} CPUs",
                said.trim()
            )));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_uses_is_not_taken_away() {
        let text = "MemTotal:         983496 kB\nMemFree:          300000 kB\nMemAvailable:     483496 kB\n";
        assert_eq!(least_memory(text), Some(500_000 + RESERVE));
        assert_eq!(least_memory("MemTotal:         983496 kB\n"), None);
        assert_eq!(least_memory("MemTotal: much\nMemAvailable: 1 kB\n"), None);
    }
}
