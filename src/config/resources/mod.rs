//! Resource limits of a sandbox, the same on the command line (`--memory 1G`) and in the file (`memory =
//! "1G"` under `[resources]`).

pub mod change;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::values::size::ParseBytesError;
use crate::config::{Bytes, as_text};
use crate::error::{Error, Result};

/// Resource limits of a sandbox. An absent limit means unlimited, except for memory (2 GiB for a container, 1
/// GiB for a virtual machine) and the number of processes (16384, and for a container no more than an eighth
/// of the host's).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[command(next_help_heading = "Limits")]
pub struct Resources {
    /// Memory it may use, 16M or more [default: 2G for a container, 1G for a virtual machine]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// CPUs it may use at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Weight against other sandboxes where the CPUs are busy, 2 to 262144 [the kernel's default is 1024]
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// CPU time it may use, in percent of one CPU (150 is one and a half)
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=409_600))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u32>,
    /// Host CPUs it runs on, as 0-3,8
    #[arg(long, value_name = "CPUS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pinning: Option<IdSet>,
    /// NUMA nodes its memory comes from, as 0-1
    #[arg(long, value_name = "NODES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<IdSet>,
    /// Processes and threads it may have [default: 16384, for a container at most an eighth of kernel.pid_max]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(16..=4_194_304))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Weight of its block I/O, 100 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(100..=1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u32>,
    /// Bytes a second it may read from a block device of the host, as /dev/sda=10M
    #[arg(long, value_name = "DEVICE=SIZE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_read: Vec<DeviceLimit>,
    /// Bytes a second it may write to a block device
    #[arg(long, value_name = "DEVICE=SIZE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_write: Vec<DeviceLimit>,
    /// Reads a second from a block device, as /dev/sda=500
    #[arg(long, value_name = "DEVICE=N")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_read_ops: Vec<DeviceLimit>,
    /// Writes a second to a block device
    #[arg(long, value_name = "DEVICE=N")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_write_ops: Vec<DeviceLimit>,
    /// Bytes a second each NIC may receive
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_receive: Option<Bytes>,
    /// Bytes a second each NIC may send
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_send: Option<Bytes>,
}

/// Minimum memory: with less nothing starts, and nothing can report it.
const LEAST_MEMORY: Bytes = Bytes::mebi(16);

fn memory(text: &str) -> Result<Bytes> {
    let memory: Bytes = text
        .parse()
        .map_err(|error: ParseBytesError| Error::refused(error.to_string()))?;
    match memory < LEAST_MEMORY {
        true => Err(Error::refused(format!(
            "'{text}' is too little: {LEAST_MEMORY} or more"
        ))),
        false => Ok(memory),
    }
}

/// Default memory limit of a container.
pub const DEFAULT_CONTAINER_MEMORY: Bytes = Bytes::mebi(2048);

/// Default memory of a virtual machine.
pub const DEFAULT_MACHINE_MEMORY: Bytes = Bytes::mebi(1024);

/// Default limit of processes: enough for any server.
pub const DEFAULT_PIDS: u64 = 16384;

/// Number of containers with the default limit that can use all their processes before the host has none
/// left.
const CONTAINERS_AT_MOST: u64 = 8;

/// Processes that a container needs to start and to be reached.
const LEAST_PIDS: u64 = 256;

impl Resources {
    /// Returns the limit of processes and threads of a virtual machine, whose kernel is its own.
    #[must_use]
    pub fn machine_pids(&self) -> u64 {
        self.pids.unwrap_or(DEFAULT_PIDS)
    }

    /// Returns the limit of processes and threads of a container on a host with `pid_max`.
    #[must_use]
    pub fn container_pids(&self, pid_max: u64) -> u64 {
        let part = pid_max / CONTAINERS_AT_MOST;
        self.pids
            .unwrap_or_else(|| part.clamp(LEAST_PIDS, DEFAULT_PIDS))
    }

    /// Returns the size in bytes of each tmpfs of a container (`/run`, `/tmp`, `/dev/shm`). All together
    /// leave some memory for processes, because no process can be killed to get back what files take.
    #[must_use]
    pub fn tmpfs_size(&self) -> u64 {
        self.memory.unwrap_or(DEFAULT_CONTAINER_MEMORY).get() / 4
    }

    /// Returns the CPU time in percent of one CPU: the tighter of `--cpu-quota` and `--cpus`.
    #[must_use]
    pub fn cpu_percent(&self) -> Option<u32> {
        let of_cpus = self.cpus.map(|cpus| cpus * 100);
        match (self.cpu_quota, of_cpus) {
            (Some(quota), Some(cpus)) => Some(quota.min(cpus)),
            (quota, cpus) => quota.or(cpus),
        }
    }
}

/// Limit of one block device, `DEVICE=AMOUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLimit {
    /// Device node on the host.
    pub device: PathBuf,
    /// Bytes or operations a second.
    pub amount: Bytes,
}

/// Error of parsing a limit of a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseLimitError {
    /// The text is not `DEVICE=AMOUNT`.
    #[error("'{0}' is not a limit: write /dev/NAME=AMOUNT")]
    Syntax(String),
    /// The amount is invalid.
    #[error(transparent)]
    Amount(#[from] crate::config::values::size::ParseBytesError),
}

impl FromStr for DeviceLimit {
    type Err = ParseLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParseLimitError::Syntax(text.to_owned());
        let (device, amount) = text.split_once('=').ok_or_else(syntax)?;
        let is_plain = !device.chars().any(char::is_control) && Path::new(device).is_absolute();
        if !is_plain {
            return Err(syntax());
        }
        Ok(Self {
            device: device.into(),
            amount: amount.parse()?,
        })
    }
}

impl fmt::Display for DeviceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.device.display(), self.amount)
    }
}

as_text!(DeviceLimit);

/// Set of CPU or NUMA node numbers, written like the kernel's lists: `0-3,8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdSet(BTreeSet<u16>);

/// Error of parsing a set of numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a list of numbers such as 0-3,8")]
pub struct ParseIdSetError(String);

impl IdSet {
    /// Returns a bit mask with one bit for each number, the lowest first.
    #[must_use]
    pub fn bits(&self) -> Vec<u8> {
        let most = self.0.last().copied().unwrap_or_default();
        let mut bits = vec![0; usize::from(most / 8) + 1];
        for id in &self.0 {
            if let Some(byte) = bits.get_mut(usize::from(id / 8)) {
                *byte |= 1 << (id % 8);
            }
        }
        bits
    }
}

impl IdSet {
    /// Returns the numbers that are not in `other`, if there are any.
    #[must_use]
    pub fn without(&self, other: &Self) -> Option<Self> {
        let rest: BTreeSet<u16> = self.0.difference(&other.0).copied().collect();
        (!rest.is_empty()).then_some(Self(rest))
    }
}

impl FromStr for IdSet {
    type Err = ParseIdSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseIdSetError(text.to_owned());
        let number = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|n| *n < 8192)
                .ok_or_else(wrong)
        };
        let mut ids = BTreeSet::new();
        for field in text.split(',') {
            let (first, last) = field.split_once('-').unwrap_or((field, field));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            ids.extend(first..=last);
        }
        Ok(Self(ids))
    }
}

impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if(|next| *next == last + 1) {
                last = next;
            }
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

as_text!(IdSet);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_leaves_processes_to_the_host() {
        let usual = Resources::default();
        for (pid_max, expected) in [(301, 256), (32768, 4096), (4_194_304, DEFAULT_PIDS)] {
            assert_eq!(usual.container_pids(pid_max), expected, "{pid_max}");
        }
        let asked = Resources {
            pids: Some(20_000),
            ..usual
        };
        assert_eq!(asked.container_pids(32768), 20_000);
    }

    #[test]
    fn sets_of_numbers_are_normalised() {
        for (text, shown) in [
            ("0", "0"),
            ("0-3,8", "0-3,8"),
            ("3,1,2", "1-3"),
            ("5-5", "5"),
        ] {
            assert_eq!(text.parse::<IdSet>().unwrap().to_string(), shown);
        }
        for text in ["", "3-1", "a", "1,,2", "-1", "99999"] {
            assert!(text.parse::<IdSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn sets_of_numbers_are_bits() {
        let bits = |text: &str| text.parse::<IdSet>().unwrap().bits();
        assert_eq!(bits("0-1"), [3]);
        assert_eq!(bits("7-9"), [0x80, 3]);
    }

    #[test]
    fn the_tighter_cpu_limit_counts() {
        let resources = |cpus, cpu_quota| Resources {
            cpus,
            cpu_quota,
            ..Resources::default()
        };
        assert_eq!(resources(None, None).cpu_percent(), None);
        assert_eq!(resources(Some(2), None).cpu_percent(), Some(200));
        assert_eq!(resources(Some(2), Some(50)).cpu_percent(), Some(50));
    }

    #[test]
    fn limits_of_devices_are_read() {
        assert_eq!(
            "/dev/sda=10M".parse::<DeviceLimit>().unwrap().to_string(),
            "/dev/sda=10M"
        );
        for text in ["sda=1", "/dev/sda", "/dev/sda=", "/dev/sda=x"] {
            assert!(text.parse::<DeviceLimit>().is_err(), "{text}");
        }
    }
}
