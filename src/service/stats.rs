//! What sandboxes use.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::SandboxName;
use crate::driver::Activity;
use crate::error::{Error, Result};
use crate::hypervisor::{Hypervisor, Usage};
use crate::service::sandboxes::Sandboxes;

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
    activity: Activity,
    usage: Usage,
    at: Instant,
}

/// How often it is asked whether to stop waiting.
const LOOK: Duration = Duration::from_millis(50);

/// Memory limits from here on are none (`memory.limit_in_bytes` of cgroup version 1), in KiB.
const UNLIMITED: u64 = 1 << 50;

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
        let state = hypervisor.state(name.as_str())?;
        let inside = self.keeper(&config)?.inside(&config, state).ok_or_else(|| {
            Error::refused(format!(
                "the sandbox '{name}' does not run; start it with 'virt-sandbox-service start {name}'"
            ))
        })?;
        Ok(Sample {
            name: name.clone(),
            activity: inside.activity()?,
            usage: hypervisor.usage(name.as_str())?,
            at: Instant::now(),
        })
    }
}

fn stats(before: &Sample, now: &Sample) -> Stats {
    let seconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64();
    let used = seconds(now.usage.cpu.saturating_sub(before.usage.cpu));
    let waited = now.at.duration_since(before.at).as_secs_f64();
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
        net_received: now.activity.net_received,
        net_sent: now.activity.net_sent,
        processes: now.activity.processes,
        uptime: now.activity.uptime,
    }
}
