//! What sandboxes use.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::guest::cgroup;
use crate::hypervisor::{Hypervisor, Usage};
use crate::service::sandboxes::Sandboxes;
use crate::sys::enter;

/// What a running sandbox uses, or has used since it started.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// The sandbox.
    pub name: SandboxName,
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// CPU time while it was looked at, in percent of one CPU.
    pub cpu_percent: f64,
    /// Memory in bytes, cached files included.
    pub memory: u64,
    /// Most memory it may have, in bytes.
    pub memory_limit: Option<u64>,
    /// Bytes read from block devices, where the kernel counts them.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_written: Option<u64>,
    /// Bytes that its NICs received.
    pub net_received: u64,
    /// Bytes that its NICs sent.
    pub net_sent: u64,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Seconds since it started.
    pub uptime: f64,
}

/// A look at a sandbox.
struct Sample {
    name: SandboxName,
    pid: u32,
    usage: Usage,
    at: Instant,
}

/// How often it is asked whether to stop waiting.
const LOOK: Duration = Duration::from_millis(50);

/// Memory limits from here on are none (`memory.limit_in_bytes` of cgroup version 1), in KiB.
const UNLIMITED: u64 = 1 << 50;

/// Clock ticks a second in what `/proc` tells programs: `USER_HZ` of every architecture that Rust has.
const TICKS: f64 = 100.0;

impl Sandboxes {
    /// What sandboxes use, measured for so long; all that run if none is named.
    ///
    /// # Errors
    /// Where one that is named does not run, or libvirt does not answer.
    pub fn stats(
        &self,
        names: &[SandboxName],
        interval: Duration,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Vec<Stats>> {
        let mut before = Vec::new();
        if names.is_empty() {
            for summary in self.list()?.iter().filter(|one| one.state == "running") {
                // It may have ended since.
                before.extend(self.sample(&summary.name).ok());
            }
        }
        for name in names {
            before.push(self.sample(name)?);
        }
        let begin = Instant::now();
        while begin.elapsed() < interval {
            if interrupted() {
                return Err(Error::refused("interrupted"));
            }
            sleep(LOOK.min(interval));
        }
        let again = |before: &Sample| Some(stats(before, &self.sample(&before.name).ok()?));
        Ok(before.iter().filter_map(again).collect())
    }

    fn sample(&self, name: &SandboxName) -> Result<Sample> {
        let config = self.store.load(name)?;
        let hypervisor = self.hypervisor(&config)?;
        let controller = hypervisor.state(name.as_str())?.controller();
        let pid = controller.and_then(enter::first_process).ok_or_else(|| {
            Error::refused(format!(
                "the sandbox '{name}' does not run; start it with 'virt-sandbox-service start {name}'"
            ))
        })?;
        Ok(Sample {
            name: name.clone(),
            pid,
            usage: hypervisor.usage(name.as_str())?,
            at: Instant::now(),
        })
    }
}

fn stats(before: &Sample, now: &Sample) -> Stats {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", now.pid));
    let (net_received, net_sent) = parse_net_dev(&read("net/dev").unwrap_or_default());
    let seconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64();
    let used = seconds(now.usage.cpu.saturating_sub(before.usage.cpu));
    let waited = now.at.duration_since(before.at).as_secs_f64();
    let since_boot = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let since_boot: f64 = since_boot
        .split(' ')
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_default();
    let started = parse_start(&read("stat").unwrap_or_default()).unwrap_or(since_boot);
    let processes = cgroup::counting_processes(now.pid, &now.name)
        .and_then(|group| fs::read_to_string(group.join("pids.current")).ok())
        .and_then(|text| text.trim().parse().ok());
    Stats {
        name: now.name.clone(),
        cpu_seconds: seconds(now.usage.cpu),
        cpu_percent: if waited > 0.0 {
            100.0 * used / waited
        } else {
            0.0
        },
        memory: now.usage.memory << 10,
        memory_limit: now
            .usage
            .most_memory
            .filter(|kib| *kib < UNLIMITED)
            .map(|kib| kib << 10),
        io_read: now.usage.io.map(|(read, _)| read),
        io_written: now.usage.io.map(|(_, written)| written),
        net_received,
        net_sent,
        processes,
        uptime: (since_boot - started).max(0.0),
    }
}

/// Bytes received and sent of all NICs but the loopback: the first and the ninth number of `/proc/net/dev`.
fn parse_net_dev(text: &str) -> (u64, u64) {
    let numbers = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest
            .split_whitespace()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        (name.trim() != "lo").then_some((*numbers.first()?, *numbers.get(8)?))
    });
    numbers.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// When a process started, in seconds since the boot: field 22 of `/proc/PID/stat`, whose second has brackets around it.
fn parse_start(text: &str) -> Option<f64> {
    let (_, rest) = text.rsplit_once(')')?;
    let ticks: f64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let text = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs\n    lo:     999       1    0    0    0     0          0         0     999       1    0    0    0     0       0          0\n  eth0:    1000       9    0    0    0     0          0         0      70       1    0    0    0     0       0          0\n  eth1:       1       9    0    0    0     0          0         0       2       1    0    0    0     0       0          0\n";
        assert_eq!(parse_net_dev(text), (1001, 72));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
        assert_eq!(parse_start(stat), Some(123.45));
    }
}
