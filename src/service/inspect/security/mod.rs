//! Exposure of the host to a sandbox, as `systemd-analyze security` shows it for units: 0 is safe, 10 is not.
//!
//! [`judge`] is pure; its facts come from the configuration and, for a running sandbox, from its state at the
//! start.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use guest_init::config::GuestConfig;
use serde::Serialize;

use crate::config::network::Source;
use crate::config::{Confinement, Idmap, Mount, SandboxConfig, SandboxName, Seccomp};
use crate::driver::DefinedShare;
use crate::error::Result;
use crate::service::inspect::summary;
use crate::service::sandbox::Sandbox;
use crate::{guest, host};

/// Facts about a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// True if it has its own kernel.
    pub machine: bool,
    /// True if root inside has another uid on the host.
    pub own_ids: bool,
    /// Filter of system calls.
    pub filter: Filter,
    /// Capabilities that no process inside can have, without `CAP_`.
    pub dropped: BTreeSet<String>,
    /// Security label.
    pub label: Option<String>,
    /// Writable directories and devices of the host, besides its tree.
    pub writable: Vec<String>,
    /// Directories of the host that a virtual machine has read-only, enforced by the host, each with its transport.
    pub read_only: Vec<String>,
    /// Number of NICs.
    pub nics: usize,
    /// Number of NICs without a filter.
    pub unfiltered: usize,
    /// Number of NICs with user networking, where the hypervisor makes the connections.
    pub by_hypervisor: usize,
    /// True if CPU time is limited.
    pub cpu_limited: bool,
    /// True if memory is limited.
    pub memory_limited: bool,
    /// Maximum number of processes, if limited.
    pub pids: Option<u64>,
}

/// Filter of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The default filter.
    Usual,
    /// A profile of the administrator.
    Profile,
    /// No filter.
    Off,
}

/// One check of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// Name of the check.
    pub name: &'static str,
    /// Result.
    pub state: String,
    /// Weight.
    pub weight: u32,
    /// Badness from 0 to 10.
    pub badness: u32,
    /// Advice for improvement.
    pub advice: Option<String>,
}

/// Security report of a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The sandbox.
    pub name: SandboxName,
    /// Exposure from 0 (safe) to 10.
    pub exposure: f64,
    /// Exposure as a word.
    pub level: &'static str,
    /// Checks.
    pub checks: Vec<Check>,
}

/// Capability that the kernel requires for most privileged operations (capabilities(7)).
const ALMIGHTY: &str = "SYS_ADMIN";

/// Capabilities that let root in the host's user namespace change the host.
const MIGHTY: [&str; 8] = [
    ALMIGHTY,
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PTRACE",
    "DAC_READ_SEARCH",
    "SYS_TIME",
    "MKNOD",
    "BPF",
];

fn check(
    name: &'static str,
    weight: u32,
    badness: u32,
    state: &str,
    advice: Option<&str>,
) -> Check {
    Check {
        name,
        state: state.to_owned(),
        weight,
        badness,
        advice: advice.filter(|_| badness > 0).map(ToOwned::to_owned),
    }
}

/// Checks that only apply to containers, with their weights.
const OF_CONTAINERS: [(&str, u32); 4] = [
    ("root", 500),
    ("system-calls", 300),
    ("capabilities", 300),
    ("mounts", 300),
];

/// Returns the checks of kernel restrictions for containers. They depend on each other: root of the host is only restricted by
/// its capabilities and the filter.
fn of_container(facts: &Facts) -> Vec<Check> {
    let [root, calls, capabilities, mounts] = OF_CONTAINERS;
    let (reach, badness) = match facts.filter {
        Filter::Usual => ("the host's, by the system calls of services", 3),
        Filter::Profile => ("the host's, by the system calls of a profile", 4),
        Filter::Off => ("the host's, by all its system calls", 10),
    };
    let advice = "make it in a virtual machine (create --connect)";
    let mut checks = vec![check("kernel", 300, badness, reach, Some(advice))];
    checks.push(match facts.own_ids {
        true => check(root.0, root.1, 0, "an ordinary user of the host", None),
        false => {
            let advice =
                "let it have ids of its own (idmap = \"auto\"), on a kernel with user namespaces";
            let state = "the host's root, held back by what follows";
            check(root.0, root.1, 10, state, Some(advice))
        }
    });
    let (badness, state, advice) = match facts.filter {
        Filter::Usual => (0, "those of administrators are refused", None),
        Filter::Profile => (
            2,
            "as a profile says",
            Some("use --seccomp default, which is known"),
        ),
        Filter::Off => (
            10,
            "all are made",
            Some("filter them (seccomp = \"default\")"),
        ),
    };
    checks.push(check(calls.0, calls.1, badness, state, advice));
    let held: Vec<&str> = (MIGHTY.into_iter())
        .filter(|name| !facts.dropped.contains(*name))
        .collect();
    let badness: u32 = match facts.own_ids {
        // With own ids, capabilities only apply to its own namespaces.
        true => 0,
        false => (held.iter())
            .map(|name| if *name == ALMIGHTY { 6 } else { 2 })
            .sum(),
    };
    let state = match held.as_slice() {
        [] => "none that reaches the host".to_owned(),
        held => format!("has {}", held.join(" ")),
    };
    let advice = "drop what the service does not need (--cap-drop)";
    let (name, weight) = capabilities;
    checks.push(check(name, weight, badness.min(10), &state, Some(advice)));
    let (name, weight) = mounts;
    checks.push(match (facts.own_ids, held.contains(&ALMIGHTY)) {
        (true, _) => check(name, weight, 0, "locked", None),
        (false, false) => check(name, weight, 0, "it may change none", None),
        (false, true) => {
            let advice = "let it have ids of its own, or drop sys_admin";
            let state = "it may mount settings and groups of the host's kernel";
            check(name, weight, 8, state, Some(advice))
        }
    });
    checks
}

/// Computes the report from facts.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = match facts.machine {
        true => of_machine(),
        false => of_container(facts),
    };
    checks.extend([label(facts), files(facts), network(facts), limits(facts)]);
    checks
}

fn of_machine() -> Vec<Check> {
    let mut checks = vec![check(
        "kernel",
        300,
        0,
        "its own, in a virtual machine",
        None,
    )];
    // Use the same weights, so that the means of both drivers are comparable.
    let shared = |(name, weight)| check(name, weight, 0, "its kernel's alone", None);
    checks.extend(OF_CONTAINERS.map(shared));
    checks
}

fn label(facts: &Facts) -> Check {
    let advice = "run SELinux or AppArmor on the host";
    match &facts.label {
        Some(label) => check(
            "label",
            150,
            0,
            &format!("the host's security module knows it as {label}"),
            None,
        ),
        None => check("label", 150, 6, "none", Some(advice)),
    }
}

fn files(facts: &Facts) -> Check {
    let writable = u32::try_from(facts.writable.len()).unwrap_or(u32::MAX);
    let mut state = match facts.writable.as_slice() {
        [] => "only its own tree".to_owned(),
        paths => format!("its own tree, and {}", paths.join(" ")),
    };
    if !facts.read_only.is_empty() {
        let shown = facts.read_only.join(", ");
        state.push_str(&format!("; the host refuses to write to {shown}"));
    }
    let advice = "mount directories of the host read-only (',ro'), and give it no devices";
    check(
        "files",
        200,
        writable.saturating_mul(4).min(10),
        &state,
        Some(advice),
    )
}

fn network(facts: &Facts) -> Check {
    let (badness, state) = match (facts.nics, facts.unfiltered) {
        (nics, _) if facts.by_hypervisor > 0 => (
            10,
            format!("{nics}, in user mode, which reaches the host's loopback"),
        ),
        (0, _) => (0, "none but the loopback".to_owned()),
        (nics, 0) => (2, format!("{nics} filtered")),
        (nics, open) => (5, format!("{nics}, {open} without a filter")),
    };
    let advice = "do without one (-N none), or filter it (-N …,filter=clean-traffic)";
    check("network", 100, badness, &state, Some(advice))
}

fn limits(facts: &Facts) -> Check {
    let mut state = Vec::new();
    let mut badness = 0;
    for (is_limited, what, bad) in [
        (facts.memory_limited, "memory", 4),
        (facts.cpu_limited, "CPU time", 2),
    ] {
        if !is_limited {
            badness += bad;
        }
        let no = if is_limited { "" } else { "no limit of " };
        state.push(format!("{no}{what}"));
    }
    state.push(match facts.pids {
        Some(pids) => format!("{pids} processes"),
        None => "no limit of processes".to_owned(),
    });
    badness += match facts.pids {
        Some(..=4096) => 0,
        Some(_) => 2,
        None => 4,
    };
    let state = state.join(", ");
    let advice = "limit what it may use (set cpus=1 pids=1024)";
    check("limits", 100, badness, &state, Some(advice))
}

/// Returns the contribution of a check to the exposure, from 0 to 10.
#[must_use]
pub fn share(check: &Check, all: &[Check]) -> f64 {
    let weight: u32 = all.iter().map(|check| check.weight).sum();
    f64::from(check.weight * check.badness) / f64::from(weight.max(1))
}

/// Returns the weighted mean of badness, and its word in `systemd-analyze security`.
#[must_use]
pub fn exposure(checks: &[Check]) -> (f64, &'static str) {
    let exposure: f64 = checks.iter().map(|check| share(check, checks)).sum();
    let exposure = (exposure * 10.0).round() / 10.0;
    let level = match exposure {
        ..0.1 => "PERFECT",
        ..1.0 => "SAFE",
        ..5.0 => "OK",
        ..7.5 => "MEDIUM",
        ..9.0 => "EXPOSED",
        ..10.0 => "UNSAFE",
        _ => "DANGEROUS",
    };
    (exposure, level)
}

impl Facts {
    /// Collects the facts from a configuration and, if it runs, from its state at the start.
    fn new(
        config: &SandboxConfig,
        machine: bool,
        label: Option<String>,
        runs: Option<&GuestConfig>,
    ) -> Self {
        let confinement = Confinement::of_service(config);
        let configured = || {
            confinement
                .capabilities
                .dropped()
                .into_iter()
                .map(ToOwned::to_owned)
        };
        let is_filtered = runs.is_none_or(|guest| guest.confinement.filter.is_some());
        Self {
            machine,
            own_ids: match runs {
                Some(guest) => guest.idmap.is_some(),
                None => config.idmap != Idmap::No,
            },
            filter: match (is_filtered, &config.seccomp) {
                (false, _) | (_, Seccomp::Off) => Filter::Off,
                (true, Seccomp::Default) => Filter::Usual,
                (true, Seccomp::Profile(_)) => Filter::Profile,
            },
            dropped: match runs {
                Some(guest) => {
                    let names = guest.confinement.dropped.iter();
                    names
                        .map(|name| name.trim_start_matches("CAP_").to_owned())
                        .collect()
                }
                None => configured().collect(),
            },
            label,
            writable: config
                .mounts
                .iter()
                .filter_map(|mount| match mount {
                    Mount::HostBind {
                        source: Some(source),
                        read_only: false,
                        ..
                    } => Some(source.display().to_string()),
                    Mount::HostBind { .. }
                    | Mount::HostImage { .. }
                    | Mount::GuestBind { .. }
                    | Mount::Ram { .. } => None,
                })
                .chain(
                    (config.devices.iter())
                        .filter(|device| !device.is_harmless())
                        .map(ToString::to_string),
                )
                .collect(),
            read_only: vec![],
            nics: config.networks.len(),
            unfiltered: (config.networks.iter())
                .filter(|network| network.filter.is_none())
                .count(),
            by_hypervisor: (config.networks.iter())
                .filter(|network| network.source == Some(Source::User))
                .count(),
            cpu_limited: config.resources.cpus.is_some() || config.resources.cpu_quota.is_some(),
            // Memory always has a limit, by default if none is configured.
            memory_limited: true,
            pids: Some(match machine {
                true => config.resources.machine_pids(),
                false => config.resources.container_pids(host::pid_max()),
            }),
        }
    }

    /// Adds the directories of the host that a domain has besides the `tree` of its sandbox.
    fn add_shares(&mut self, shares: Vec<DefinedShare>, tree: &Path) {
        for share in shares {
            let source = share.source.display().to_string();
            if share.read_only {
                self.read_only
                    .push(format!("{source} ({})", share.transport));
            } else if !share.source.starts_with(tree) && !self.writable.contains(&source) {
                self.writable.push(source);
            }
        }
    }
}

impl Sandbox<'_> {
    /// Returns the security report of the sandbox.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn security(&self) -> Result<Report> {
        let (name, config, hypervisor) = (self.name(), self.config(), self.hypervisor()?);
        let driver = self.driver()?;
        let machine = driver.has_own_kernel();
        let given = self.stage().join(guest::CONFIG);
        let runs: Option<GuestConfig> = (self.state()?.id().is_some() && !machine)
            .then(|| fs::read(given).ok())
            .flatten()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let root = &self.host().root;
        let label = match summary::label_of(hypervisor, root, name)? {
            // libvirt labels machines itself, anew at every start.
            None if machine && host::has_security_module(root) => {
                Some("libvirt's choice".to_owned())
            }
            label => label,
        };
        let mut facts = Facts::new(config, machine, label, runs.as_ref());
        if let Some(xml) = hypervisor.definition(name.as_str())? {
            facts.add_shares(driver.defined_shares(&xml), &config.path);
        }
        let checks = judge(&facts);
        let (exposure, level) = exposure(&checks);
        Ok(Report {
            name: name.clone(),
            exposure,
            level,
            checks,
        })
    }
}

#[cfg(test)]
mod tests;
