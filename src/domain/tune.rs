//! Limits, as the templates see them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::Resources;

/// Limits that are written alike for every driver.
#[derive(Debug, Serialize)]
pub(super) struct Tune {
    cpuset: Option<String>,
    cpu_shares: Option<u64>,
    nodeset: Option<String>,
    io_weight: Option<u32>,
    io_devices: Vec<IoDevice>,
}

#[derive(Debug, Serialize)]
struct IoDevice {
    path: PathBuf,
    limits: Vec<IoLimit>,
}

#[derive(Debug, Serialize)]
struct IoLimit {
    element: &'static str,
    amount: u64,
}

/// Period of CPU quotas, in microseconds, as it is in the templates.
pub const CPU_PERIOD_US: u64 = 100_000;

impl Tune {
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            cpuset: resources.cpu_pinning.as_ref().map(ToString::to_string),
            cpu_shares: resources.cpu_shares,
            nodeset: resources.numa_nodes.as_ref().map(ToString::to_string),
            io_weight: resources.io_weight,
            io_devices: io_devices(resources),
        }
    }
}

/// Returns the CPU time in a period, in microseconds, for a percentage of one CPU.
#[must_use]
pub fn quota_us(percent: u32) -> u64 {
    u64::from(percent) * CPU_PERIOD_US / 100
}

fn io_devices(resources: &Resources) -> Vec<IoDevice> {
    let mut devices: BTreeMap<PathBuf, Vec<IoLimit>> = BTreeMap::new();
    for (element, limits) in [
        ("read_iops_sec", &resources.io_read_ops),
        ("write_iops_sec", &resources.io_write_ops),
        ("read_bytes_sec", &resources.io_read),
        ("write_bytes_sec", &resources.io_write),
    ] {
        for limit in limits {
            devices
                .entry(limit.device.clone())
                .or_default()
                .push(IoLimit {
                    element,
                    amount: limit.amount.get(),
                });
        }
    }
    devices
        .into_iter()
        .map(|(path, limits)| IoDevice { path, limits })
        .collect()
}
