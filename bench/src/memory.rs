//! Memory of processes and of containers, in bytes, from `/proc` and the memory controller.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use test_harness::libvirtd::PID_VARIABLE;

/// A mebibyte.
pub const MIB: f64 = 1048576.0;

/// The most that a process has had resident so far.
pub fn resident(pid: u32) -> Option<f64> {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// What the guests of the private libvirtd take now, each page counted once: their QEMU processes.
pub fn guests() -> Option<f64> {
    // Daemons leave their children to it, since it is a subreaper; others' guests are elsewhere.
    let parent = std::env::var(PID_VARIABLE).ok()?;
    let parent = format!("PPid:\t{parent}\n");
    let mut sum = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let path = entry.path();
        // It may end meanwhile.
        let Ok(line) = fs::read(path.join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line);
        if line.contains("qemu-system-")
            && fs::read_to_string(path.join("status")).is_ok_and(|text| text.contains(&parent))
            && let Some(bytes) = field(&path.join("smaps_rollup").display().to_string(), "Pss:")
        {
            sum = Some(sum.unwrap_or(0.0) + bytes);
        }
    }
    sum
}

/// The containers of libvirt that are there.
pub fn containers() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        for partition in ["machine", "machine.slice"] {
            let entries = fs::read_dir(Path::new(root).join(partition));
            found.extend(
                entries
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
        }
    }
    found
}

/// The most that a container which was not there `before` has taken, or takes.
pub fn container(before: &BTreeSet<PathBuf>) -> Option<f64> {
    containers()
        .difference(before)
        .flat_map(|path| {
            ["memory.max_usage_in_bytes", "memory.peak", "memory.current"].map(|file| {
                fs::read_to_string(path.join(file))
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
            })
        })
        .flatten()
        .reduce(f64::max)
}

/// A line like `Pss:   123 kB`.
fn field(path: &str, name: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 100_000.0));
    }
}
