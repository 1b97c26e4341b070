//! How exposed the host is to a sandbox, as `systemd-analyze security` tells it of units: 0 is safe, 10 is not.
//!
//! [`judge`] is pure; what it judges is read from the configuration and, of a sandbox that runs, from what it was told at its
//! start.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use guest_init::config::GuestConfig;
use serde::Serialize;

use crate::config::{Confinement, Idmap, Mount, SandboxConfig, SandboxName, Seccomp};
use crate::driver::Keeper;
use crate::error::Result;
use crate::guest;
use crate::host;
use crate::hypervisor::Hypervisor;
use crate::service::sandboxes::Sandboxes;
use crate::service::summary;

/// What is known of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether its kernel is its own.
    pub machine: bool,
    /// Whether its root is another user of the host.
    pub own_ids: bool,
    /// How its system calls are filtered.
    pub filter: Filter,
    /// Capabilities that nobody inside can have, without `CAP_`.
    pub dropped: BTreeSet<String>,
    /// The label that the host's security module knows it by.
    pub label: Option<String>,
    /// Directories of the host that it may write to, beside its tree.
    pub writable: Vec<String>,
    /// How many NICs it has, and how many of them nothing filters.
    pub nics: usize,
    /// NICs without a filter.
    pub unfiltered: usize,
    /// Whether CPU time is limited.
    pub cpu_limited: bool,
    /// Most processes.
    pub pids: u64,
}

/// How system calls are filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// As usual.
    Usual,
    /// By a profile of the admin's.
    Profile,
    /// Not at all.
    Off,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// A word for it.
    pub name: &'static str,
    /// What is so.
    pub state: String,
    /// How much it counts.
    pub weight: u32,
    /// How bad it is, from 0 to 10.
    pub badness: u32,
    /// What would make it better.
    pub advice: Option<String>,
}

/// How exposed the host is to a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The sandbox.
    pub name: SandboxName,
    /// From 0, safe, to 10.
    pub exposure: f64,
    /// That in a word.
    pub level: &'static str,
    /// What it is made of.
    pub checks: Vec<Check>,
}

/// Capabilities with which root of the host's user namespace gets at the host.
const MIGHTY: [&str; 8] = [
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PTRACE",
    "DAC_READ_SEARCH",
    "SYS_TIME",
    "MKNOD",
    "BPF",
];

/// Judges facts.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let check = |name, weight, badness, state: &str, advice: Option<&str>| Check {
        name,
        state: state.to_owned(),
        weight,
        badness,
        advice: advice.filter(|_| badness > 0).map(ToOwned::to_owned),
    };
    let mut checks = vec![match facts.machine {
        true => check("kernel", 300, 0, "its own, in a virtual machine", None),
        false => {
            let advice = "make it in a virtual machine (create --connect)";
            check("kernel", 300, 4, "the host's", Some(advice))
        }
    }];
    if facts.machine {
        // Of the same weight, so that the means of both can be compared.
        for (name, weight) in [("root", 500), ("system-calls", 300), ("capabilities", 200)] {
            checks.push(check(name, weight, 0, "its kernel's alone", None));
        }
    } else {
        checks.push(match facts.own_ids {
            true => check("root", 500, 0, "an ordinary user of the host, mounts locked", None),
            false => {
                let advice = "let it have ids of its own (idmap = \"auto\"), on a kernel with user namespaces";
                check("root", 500, 10, "the host's root, held back by what follows", Some(advice))
            }
        });
        checks.push(match facts.filter {
            Filter::Usual => check(
                "system-calls",
                300,
                0,
                "those of administrators are refused",
                None,
            ),
            Filter::Profile => check(
                "system-calls",
                300,
                2,
                "as a profile says",
                Some("use --seccomp default, which is known"),
            ),
            Filter::Off => check(
                "system-calls",
                300,
                10,
                "all are made",
                Some("filter them (seccomp = \"default\")"),
            ),
        });
        let held: Vec<&str> = (MIGHTY.into_iter())
            .filter(|name| !facts.dropped.contains(*name))
            .collect();
        // In a user namespace of its own they are about what is in it.
        let each = if facts.own_ids { 0 } else { 2 };
        let badness = (each * u32::try_from(held.len()).unwrap_or(u32::MAX)).min(10);
        let state = match held.as_slice() {
            [] => "none that reaches the host".to_owned(),
            held => format!("has {}", held.join(" ")),
        };
        let advice = "drop what the service does not need (--cap-drop)";
        checks.push(check("capabilities", 200, badness, &state, Some(advice)));
    }
    checks.push(match &facts.label {
        Some(label) => check(
            "label",
            150,
            0,
            &format!("the host's security module knows it as {label}"),
            None,
        ),
        None => check(
            "label",
            150,
            6,
            "none",
            Some("run SELinux or AppArmor on the host"),
        ),
    });
    let writable = u32::try_from(facts.writable.len()).unwrap_or(u32::MAX);
    let state = match facts.writable.as_slice() {
        [] => "only its own tree".to_owned(),
        paths => format!("its own tree, and {}", paths.join(" ")),
    };
    let advice = "mount directories of the host read-only (',ro')";
    checks.push(check(
        "files",
        200,
        writable.saturating_mul(4).min(10),
        &state,
        Some(advice),
    ));
    let (badness, state) = match (facts.nics, facts.unfiltered) {
        (0, _) => (0, "none but the loopback".to_owned()),
        (nics, 0) => (2, format!("{nics} filtered")),
        (nics, open) => (5, format!("{nics}, {open} without a filter")),
    };
    let advice = "do without one (-N none), or filter it (-N …,filter=clean-traffic)";
    checks.push(check("network", 150, badness, &state, Some(advice)));
    let is_many = facts.pids > 4096;
    let (badness, state) = match (facts.cpu_limited, is_many) {
        (true, false) => (0, format!("memory, CPU time, {} processes", facts.pids)),
        (true, true) => (
            2,
            format!("memory, CPU time, {} processes are many", facts.pids),
        ),
        (false, _) => (
            4,
            format!("memory, {} processes; no limit of CPU time", facts.pids),
        ),
    };
    let advice = "limit what it may use (set cpus=1 pids=1024)";
    checks.push(check("limits", 100, badness, &state, Some(advice)));
    checks
}

/// The mean of how bad all is, by weight, and a word for it.
#[must_use]
pub fn exposure(checks: &[Check]) -> (f64, &'static str) {
    let weight: u32 = checks.iter().map(|check| check.weight).sum();
    let bad: u32 = checks
        .iter()
        .map(|check| check.weight * check.badness)
        .sum();
    let exposure = f64::from(bad) / f64::from(weight.max(1));
    let exposure = (exposure * 10.0).round() / 10.0;
    let level = match exposure {
        ..2.0 => "safe",
        ..4.0 => "ok",
        ..6.0 => "medium",
        ..8.0 => "exposed",
        _ => "unsafe",
    };
    (exposure, level)
}

impl Facts {
    /// Those of a configuration, and of what it `runs` with where it does.
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
                .collect(),
            nics: config.networks.len(),
            unfiltered: (config.networks.iter())
                .filter(|network| network.filter.is_none())
                .count(),
            cpu_limited: config.resources.cpus.is_some() || config.resources.cpu_quota.is_some(),
            pids: config.resources.pids(),
        }
    }
}

impl Sandboxes {
    /// How exposed the host is to a sandbox.
    ///
    /// # Errors
    /// Where there is no such sandbox, or libvirt does not answer.
    pub fn security(&self, name: &SandboxName) -> Result<Report> {
        let config = self.store.load(name)?;
        let machine = self.keeper(&config)? == Keeper::Machines;
        let state = self.hypervisor(&config)?.state(name.as_str())?;
        let told = self.store.stage(name).join(guest::CONFIG);
        let runs: Option<GuestConfig> = (state.id().is_some() && !machine)
            .then(|| fs::read(told).ok())
            .flatten()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let label = match summary::label_of(&self.hypervisor(&config)?, name)? {
            // Those libvirt labels itself, anew at every start.
            None if machine && host::has_security_module(Path::new("/")) => {
                Some("libvirt's choice".to_owned())
            }
            label => label,
        };
        let checks = judge(&Facts::new(&config, machine, label, runs.as_ref()));
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
mod tests {
    use super::*;

    fn of(change: impl FnOnce(&mut SandboxConfig), machine: bool) -> (f64, &'static str) {
        let mut config = SandboxConfig::example();
        change(&mut config);
        exposure(&judge(&Facts::new(&config, machine, None, None)))
    }

    #[test]
    fn what_protects_counts() {
        let usual = of(|_| {}, false);
        assert_eq!(usual.1, "safe");
        assert!(of(|_| {}, true).0 < usual.0);
        let open = of(
            |config| {
                config.idmap = Idmap::No;
                config.seccomp = Seccomp::Off;
                config.mounts = vec!["host-bind:/a=/srv".parse().unwrap()];
                config.networks = vec!["dhcp".parse().unwrap()];
            },
            false,
        );
        assert_eq!(open.1, "exposed");
        let better = of(|config| config.idmap = Idmap::No, false);
        assert!(
            usual.0 < better.0 && better.0 < open.0,
            "{usual:?} {better:?} {open:?}"
        );
    }

    #[test]
    fn the_report_of_a_usual_sandbox_is_known() {
        let facts = Facts::new(
            &SandboxConfig::example(),
            false,
            Some("system_u:system_r:container_t:s0:c1,c2".to_owned()),
            None,
        );
        let text = serde_json::to_string_pretty(&judge(&facts)).unwrap();
        insta::assert_snapshot!(text);
    }
}
