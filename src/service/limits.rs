//! Limits of a sandbox, changed in its configuration, and at once where it runs and they can be.

use std::fs;

use crate::config::resources::DEFAULT_CONTAINER_MEMORY;
use crate::config::{Change, Resources, SandboxConfig, SandboxName};
use crate::domain::tune::{CPU_PERIOD_US, quota_us};
use crate::domain::{Domain, lxc};
use crate::error::{Error, Result};
use crate::guest::cgroup;
use crate::hypervisor::{Hypervisor, Limit};
use crate::service::sandboxes::Sandboxes;
use crate::sys::enter;

/// The kernel's weight of CPU time where nothing is said.
const DEFAULT_SHARES: u64 = 1024;

impl Sandboxes {
    /// Changes limits of a sandbox. Gives those that a running one has only from its next start on, with the reason.
    ///
    /// # Errors
    /// Where there is no such sandbox, or it cannot have such limits; nothing is changed then.
    pub fn set(&self, name: &SandboxName, changes: &[Change]) -> Result<Vec<(String, String)>> {
        let (_lock, mut config) = self.store.lock(name)?;
        let changed = config.resources.changed(changes);
        let before = std::mem::replace(
            &mut config.resources,
            changed.map_err(|error| Error::refused(error.to_string()))?,
        );
        config.check().map_err(Error::refused)?;
        lxc::check(&Domain::of_service(&config))?;
        let differing = before.differing(&config.resources);
        let hypervisor = self.hypervisor(&config)?;
        config.save(&self.store.config(name))?;
        let Some(controller) = hypervisor.state(name.as_str())?.controller() else {
            return Ok(vec![]);
        };
        let mut later = Vec::new();
        for key in differing {
            if let Err(reason) = apply(&config, &key, controller, &hypervisor) {
                later.push((key, reason));
            }
        }
        Ok(later)
    }
}

/// Changes a limit of a running sandbox to what its configuration says now; or says why that cannot be.
fn apply(
    config: &SandboxConfig,
    key: &str,
    controller: u32,
    hypervisor: &dyn Hypervisor,
) -> std::result::Result<(), String> {
    let resources = &config.resources;
    let Some(limit) = limit(resources, key) else {
        return match key {
            "pids" => limit_processes(config, controller),
            _ => Err("it cannot be changed while the sandbox runs".to_owned()),
        };
    };
    let limited = hypervisor.limit(config.name.as_str(), limit);
    limited.map_err(|error| error.to_string())
}

/// A limit that libvirt changes while the sandbox runs.
fn limit(resources: &Resources, key: &str) -> Option<Limit> {
    match key {
        "memory" => {
            let memory = resources.memory.unwrap_or(DEFAULT_CONTAINER_MEMORY);
            Some(Limit::Memory(memory.kibi()))
        }
        "cpus" | "cpu-quota" => Some(Limit::CpuQuota {
            quota: resources.cpu_percent().map(quota_us),
            period: CPU_PERIOD_US,
        }),
        "cpu-shares" => Some(Limit::CpuShares(
            resources.cpu_shares.unwrap_or(DEFAULT_SHARES),
        )),
        // What is usual depends on the kernel.
        "io-weight" => resources.io_weight.map(Limit::IoWeight),
        _ => None,
    }
}

/// The number of processes is no limit of libvirt's.
fn limit_processes(config: &SandboxConfig, controller: u32) -> std::result::Result<(), String> {
    let group = enter::first_process(controller)
        .and_then(|pid| cgroup::counting_processes(pid, &config.name))
        .ok_or("no group of the sandbox counts processes")?;
    let file = group.join("pids.max");
    fs::write(&file, config.resources.pids().to_string())
        .map_err(|error| format!("writing '{}': {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_value_when_it_is_taken_away() {
        let usual = Resources::default();
        assert_eq!(limit(&usual, "memory"), Some(Limit::Memory(2 << 20)));
        assert_eq!(limit(&usual, "cpu-shares"), Some(Limit::CpuShares(1024)));
        let quota = |resources: &Resources| match limit(resources, "cpus") {
            Some(Limit::CpuQuota { quota, .. }) => quota,
            _ => panic!("no quota"),
        };
        assert_eq!(quota(&usual), None);
        let two = Resources {
            cpus: Some(2),
            ..usual
        };
        assert_eq!(quota(&two), Some(200_000));
        assert_eq!(limit(&two, "io-weight"), None);
    }
}
