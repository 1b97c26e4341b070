//! Limits of a machine that runs.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;
use crate::config::Resources;
use crate::config::resources::DEFAULT_MACHINE_MEMORY;
use crate::domain::tune::{CPU_PERIOD_US, quota_us};
use crate::driver::guest::Guest;
use crate::error::{Error, Result};
use crate::hypervisor::Limit;

/// Returns the limit `key` as libvirt changes it: memory is taken back, up to what the machine was started with; CPUs come and
/// go, up to those of the host.
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

/// Returns the number of CPUs that a machine can have while it runs: that of the host; without an IOMMU 255 at most.
pub(super) fn most_cpus(resources: &Resources) -> u32 {
    let of_host = thread::available_parallelism().map_or(1, NonZero::get);
    let of_host = u32::try_from(of_host).unwrap_or(u32::MAX).min(255);
    resources.cpus.unwrap_or(1).max(of_host)
}

/// Script that takes new CPUs into use, which no program of a guest does by itself, and prints how many there are. A CPU that is on its
/// way out is left alone.
const ONLINE: &str = r#"
for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do
    [ "$(getconf _NPROCESSORS_ONLN)" -lt "$1" ] || break
    read -r is <"$cpu" && [ "$is" = 0 ] && echo 1 >"$cpu"
done 2>/dev/null
getconf _NPROCESSORS_ONLN
"#;

/// Memory of the guest's kernel that a balloon must leave, in KiB.
const RESERVE: u64 = 128 << 10;

/// Returns an error if the guest has not enough free memory for a new limit: a balloon takes it all the same, and a kernel without
/// free memory does not answer and ends its services.
pub(super) fn check(guest: &dyn Guest, limit: &Limit) -> Result<()> {
    let Limit::Balloon(kib) = limit else {
        return Ok(());
    };
    let meminfo = guest.capture(&["cat", "/proc/meminfo"])?.stdout;
    match least_memory(&meminfo) {
        Some(least) if least > *kib => Err(Error::refused(format!(
            "its kernel does not do with less than {}M",
            least >> 10
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Returns the memory in KiB that cannot be taken away, according to `/proc/meminfo` (proc_meminfo(5)).
fn least_memory(meminfo: &str) -> Option<u64> {
    let value = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let used = value("MemTotal:")?.saturating_sub(value("MemAvailable:")?);
    Some(used + RESERVE)
}

/// Waits until the guest has its new CPUs, and takes them into use.
pub(super) fn apply(guest: &dyn Guest, limit: &Limit) -> Result<()> {
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
        let online = guest
            .capture(&["/bin/sh", "-c", ONLINE, "online", &count])?
            .stdout;
        if online.trim().parse() == Ok(wanted) {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            let online = online.trim();
            return Err(Error::refused(format!("its kernel has {online} CPUs")));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_not_taken_away() {
        let text = "MemTotal:         983496 kB\nMemFree:          300000 kB\nMemAvailable:     483496 kB\n";
        assert_eq!(least_memory(text), Some(500_000 + RESERVE));
        assert_eq!(least_memory("MemTotal:         983496 kB\n"), None);
        assert_eq!(least_memory("MemTotal: much\nMemAvailable: 1 kB\n"), None);
    }
}
