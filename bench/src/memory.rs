//! Memory of processes and of containers, in bytes, from `/proc` and the memory controller.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use test_harness::libvirtd::PID_VARIABLE;

/// Bytes in a mebibyte.
pub const MIB: f64 = 1048576.0;

/// Returns the peak resident memory of a process.
pub fn resident(pid: u32) -> Option<f64> {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Returns the current memory of the private libvirtd's QEMU processes, each page counted once.
pub fn guests() -> Option<f64> {
    // The daemons' parent is a subreaper, so their guests are its children. Other guests are elsewhere.
    let parent = std::env::var(PID_VARIABLE).ok()?;
    let parent = format!("PPid:\t{parent}\n");
    let mut sum = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let path = entry.path();
        // The process may end meanwhile.
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

/// Returns the cgroups of libvirt's running containers.
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

/// Returns the peak or current memory of a container that is new since `before`.
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

/// Parses a line like `Pss:   123 kB`.
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
