//! Resource usage of sandboxes.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::SandboxName;
use crate::driver::{Guest, GuestUsage};
use crate::error::{Error, Result};
use crate::hypervisor::Usage;
use crate::service::cancellation::Cancellation;
use crate::service::connections::Connections;
use crate::service::inspect::parallel::ask_all;
use crate::service::sandbox::Sandbox;
use crate::service::sandboxes::Sandboxes;

/// Resource usage of a running sandbox since its start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Name of the sandbox.
    pub name: SandboxName,
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// CPU time during the measurement, in percent of one CPU.
    pub cpu_percent: f64,
    /// Memory in bytes, page cache included.
    pub memory: u64,
    /// Memory limit, in bytes.
    pub memory_limit: Option<u64>,
    /// Bytes read from block devices, if the kernel counts them.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_written: Option<u64>,
    /// Bytes read per second during the measurement.
    pub io_read_rate: Option<f64>,
    /// Bytes written per second during the measurement.
    pub io_written_rate: Option<f64>,
    /// Bytes received by its NICs.
    pub net_received: u64,
    /// Bytes sent by its NICs.
    pub net_sent: u64,
    /// Bytes received per second during the measurement.
    pub net_received_rate: f64,
    /// Bytes sent per second during the measurement.
    pub net_sent_rate: f64,
    /// Number of processes and threads.
    pub processes: Option<u64>,
    /// Seconds since the start.
    pub uptime: f64,
}

/// Sample of a sandbox's counters.
#[derive(Debug)]
struct Sample {
    activity: GuestUsage,
    usage: Usage,
    at: Instant,
}

/// Sample without the counters that only the sandbox knows.
#[derive(Debug)]
struct Look {
    guest: Box<dyn Guest>,
    usage: Usage,
    at: Instant,
}

impl Look {
    fn sample(self) -> Result<Sample> {
        let Self { guest, usage, at } = self;
        let activity = guest.usage()?;
        Ok(Sample {
            activity,
            usage,
            at,
        })
    }
}

/// Interval of checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);

/// Lowest value that means no memory limit (`memory.limit_in_bytes` of cgroup version 1), in KiB.
const UNLIMITED: u64 = 1 << 50;

/// Meter that samples sandboxes repeatedly.
#[derive(Debug)]
pub struct Meter<'a> {
    sandboxes: &'a Sandboxes,
    names: &'a [SandboxName],
    before: Option<BTreeMap<SandboxName, Sample>>,
}

impl<'a> Meter<'a> {
    /// Makes a meter for the sandboxes `names`, or for all running ones if none is named.
    #[must_use]
    pub fn new(sandboxes: &'a Sandboxes, names: &'a [SandboxName]) -> Self {
        Self {
            sandboxes,
            names,
            before: None,
        }
    }

    /// Returns the usage since the last sample, for sandboxes that ran then and still do.
    ///
    /// # Errors
    /// libvirt does not answer, or at the first sample a named sandbox does not run.
    pub fn look(&mut self) -> Result<Vec<Stats>> {
        let now = self.samples()?;
        let before = self.before.take().unwrap_or_default();
        let both = now
            .iter()
            .filter_map(|(name, now)| Some(stats(name, before.get(name)?, now)));
        let both = both.collect();
        self.before = Some(now);
        Ok(both)
    }

    fn samples(&self) -> Result<BTreeMap<SandboxName, Sample>> {
        let all;
        let (names, is_strict) = if self.names.is_empty() {
            all = self.sandboxes.store.names()?;
            (all.as_slice(), false)
        } else {
            (self.names, self.before.is_none())
        };
        let mut connections = Connections::default();
        let mut samples = BTreeMap::new();
        let mut silent = None;
        let looks = names.iter().map(|name| {
            let sandbox = self.sandboxes.get_connected(name, &mut connections);
            (name, sandbox.and_then(|sandbox| sandbox.look()))
        });
        let sampled = ask_all(looks.collect(), |(name, look)| {
            (name, look.and_then(Look::sample))
        });
        for (name, sample) in sampled {
            match sample {
                Ok(sample) => drop(samples.insert(name.clone(), sample)),
                Err(error) if is_strict => return Err(error),
                Err(error @ Error::Libvirt { .. }) => silent = Some(error),
                // The sandbox does not run.
                Err(_) => {}
            }
        }
        match silent {
            Some(error) if samples.is_empty() => Err(error),
            Some(_) | None => Ok(samples),
        }
    }
}

/// Waits for the given time; returns true if cancelled.
#[must_use]
pub fn pause(interval: Duration, cancellation: &Cancellation) -> bool {
    let begin = Instant::now();
    while !cancellation.is_requested() {
        let left = interval.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return false;
        }
        sleep(LOOK.min(left));
    }
    true
}

impl Sandboxes {
    /// Measures the usage of sandboxes for the given time; of all running ones if none is named.
    ///
    /// # Errors
    /// A named sandbox does not run, or libvirt does not answer.
    pub fn stats(&self, names: &[SandboxName], interval: Duration) -> Result<Vec<Stats>> {
        let mut meter = Meter::new(self, names);
        meter.look()?;
        if pause(interval, &self.cancellation) {
            return Err(Error::Interrupted);
        }
        meter.look()
    }
}

impl Sandbox<'_> {
    /// Returns the counters that the host knows, and a handle to query the others inside.
    fn look(&self) -> Result<Look> {
        let guest = self.guest()?.ok_or_else(|| self.not_running())?;
        Ok(Look {
            guest,
            usage: self.hypervisor()?.usage(self.name().as_str())?,
            at: Instant::now(),
        })
    }
}

fn stats(name: &SandboxName, before: &Sample, now: &Sample) -> Stats {
    let seconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64();
    let used = seconds(now.usage.cpu.saturating_sub(before.usage.cpu));
    let waited = now.at.duration_since(before.at).as_secs_f64();
    let rate = |before: u64, now: u64| {
        if waited > 0.0 {
            now.saturating_sub(before) as f64 / waited
        } else {
            0.0
        }
    };
    let io_rates = before
        .usage
        .io
        .zip(now.usage.io)
        .map(|(before, now)| (rate(before.0, now.0), rate(before.1, now.1)));
    let net_rate =
        |count: fn(&GuestUsage) -> u64| rate(count(&before.activity), count(&now.activity));
    Stats {
        name: name.clone(),
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
        io_read_rate: io_rates.map(|(read, _)| read),
        io_written_rate: io_rates.map(|(_, written)| written),
        net_received: now.activity.net_received,
        net_sent: now.activity.net_sent,
        net_received_rate: net_rate(|activity| activity.net_received),
        net_sent_rate: net_rate(|activity| activity.net_sent),
        processes: now.activity.processes,
        uptime: now.activity.uptime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_between_two_looks() {
        let begin = Instant::now();
        let sample = |seconds: u64, cpu: u64, io: Option<(u64, u64)>, net: u64| Sample {
            activity: GuestUsage {
                net_received: net,
                net_sent: 2 * net,
                ..GuestUsage::default()
            },
            usage: Usage {
                cpu,
                io,
                ..Usage::default()
            },
            at: begin + Duration::from_secs(seconds),
        };
        let name = "web1".parse().unwrap();
        let before = sample(0, 1_000_000_000, Some((0, 100)), 1000);
        let now = sample(2, 2_000_000_000, Some((500, 100)), 3000);
        let stats = super::stats(&name, &before, &now);
        assert_eq!((stats.cpu_percent, stats.cpu_seconds), (50.0, 2.0));
        assert_eq!(stats.io_read_rate, Some(250.0));
        assert_eq!(stats.io_written_rate, Some(0.0));
        assert_eq!(
            (stats.net_received_rate, stats.net_sent_rate),
            (1000.0, 2000.0)
        );
        // A sandbox that was restarted meanwhile has smaller counters.
        let anew = sample(2, 5, None, 0);
        let stats = super::stats(&name, &before, &anew);
        assert_eq!((stats.cpu_percent, stats.io_read_rate), (0.0, None));
    }
}
