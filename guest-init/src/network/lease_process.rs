//! Process that renews the DHCP leases of the sandbox.
//!
//! Leases are stored in `/var` of the sandbox. The next start requests the same address and does not wait until the server has checked
//! that a new one is free.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use log::warn;
use serde::{Deserialize, Serialize};

use crate::config::Nic;
use crate::network;
use crate::network::dhcp::{self, Lease, LeaseEvent};
use crate::network::resolv;
use crate::process;
use crate::root::boot_id::BOOT_ID;

/// Files that leases are written to.
#[derive(Debug, Clone)]
pub struct Files {
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// Leases for the next start, if they are stored.
    pub leases: Option<PathBuf>,
}

impl Files {
    /// Returns the files of a service sandbox, in its `/etc` and `/var`.
    #[must_use]
    pub fn persistent() -> Self {
        Self {
            resolv_conf: resolv::RESOLV_CONF.into(),
            leases: Some("/var/lib/virt-sandbox/leases.json".into()),
        }
    }

    /// Returns the files of a one-shot sandbox: an open resolv.conf only.
    #[must_use]
    pub fn volatile(resolv_conf: &File) -> Self {
        Self {
            resolv_conf: format!("/proc/self/fd/{}", resolv_conf.as_raw_fd()).into(),
            leases: None,
        }
    }
}

/// Time for a server to answer. A bridge with STP forwards nothing for four seconds, and libvirt's server takes three more to check that
/// a new address is free.
const DEADLINE: Duration = Duration::from_secs(20);

/// Capabilities needed to renew a lease.
const CAPABILITIES: [Capability; 3] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Leases by [`LeasedNic::key`].
type Leases = BTreeMap<String, Lease>;

/// Leases of the last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Record {
    /// Boot id of the host when the leases were obtained.
    boot: String,
    leases: Leases,
}

impl Record {
    /// Returns the leases, without their times if the host has booted since.
    fn into_leases(self, boot: &str) -> Leases {
        if self.boot == boot && !boot.is_empty() {
            return self.leases;
        }
        let of_another_boot = |(key, lease): (String, Lease)| (key, lease.of_another_boot());
        self.leases.into_iter().map(of_another_boot).collect()
    }
}

/// Brings up the loopback and the NICs with their addresses, and starts a process that renews leases.
pub fn start(nics: &[Nic], hostname: &str, files: &Files) -> Result<()> {
    let boot = host_boot();
    let kept = network::configure(nics, hostname, &files.remembered(&boot), DEADLINE)
        .context("starting the network")?;
    if kept.is_empty() {
        return Ok(());
    }
    let leases: Leases = kept
        .iter()
        .filter_map(|kept| Some((kept.key(), kept.lease()?.clone())))
        .collect();
    files.record(&leases, &boot);
    process::spawn(|| {
        if let Err(error) = give_up_capabilities() {
            warn!("keeping the leases: {error:#}");
        }
        let leases = Mutex::new(leases);
        std::thread::scope(|scope| {
            for kept in &kept {
                let (leases, boot) = (&leases, &boot);
                scope.spawn(move || {
                    dhcp::maintain(&kept.interface, hostname, kept.known.clone(), |event| {
                        let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
                        match event {
                            LeaseEvent::Obtained { lease, .. } => {
                                leases.insert(kept.key(), lease.clone())
                            }
                            LeaseEvent::Lost(_) => leases.remove(&kept.key()),
                        };
                        files.record(&leases, boot);
                    });
                });
            }
        });
        0
    })?;
    Ok(())
}

impl Files {
    fn remembered(&self, boot: &str) -> Leases {
        let text = self
            .leases
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| serde_json::from_str::<Record>(&text).ok())
            .map(|record| record.into_leases(boot))
            .unwrap_or_default()
    }

    /// Stores the leases. A failure is logged only: the sandbox works without.
    fn record(&self, leases: &Leases, boot: &str) {
        if let Some(content) = network::resolv_conf(leases.values())
            && let Err(error) = resolv::write(&self.resolv_conf, &content)
        {
            warn!("{error}");
        }
        if let Some(path) = &self.leases
            && let Err(error) = remember(path, leases, boot)
        {
            warn!("writing '{}': {error}", path.display());
        }
    }
}

fn remember(path: &Path, leases: &Leases, boot: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let record = Record {
        boot: boot.to_owned(),
        leases: leases.clone(),
    };
    Ok(fs::write(path, serde_json::to_vec(&record)?)?)
}

/// Reads the boot id of the host, before the sandbox gets its own: the clock of leases restarts with each boot. Empty if unknown.
fn host_boot() -> String {
    let id = fs::read_to_string(BOOT_ID).unwrap_or_default();
    id.trim_end().to_owned()
}

fn give_up_capabilities() -> Result<()> {
    let kept: CapsHashSet = CAPABILITIES.into_iter().collect();
    caps::set(None, CapSet::Effective, &kept).context("giving up capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("giving up capabilities")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::network::dhcp::lease::Terms;

    #[test]
    fn of_a_lease_of_another_boot_only_the_address_is_used() {
        let lease = Lease {
            address: Ipv4Addr::new(192, 0, 2, 7),
            prefix: 24,
            broadcast: None,
            server: Ipv4Addr::new(192, 0, 2, 1),
            routes: vec![],
            dns: vec![],
            domain: None,
            search: vec![],
            mtu: None,
            obtained: 0,
            terms: Some(Terms {
                renewal: u32::MAX - 3,
                rebinding: u32::MAX - 2,
                expiry: u32::MAX - 1,
            }),
        };
        for (then, now, holds) in [("a", "a", true), ("a", "b", false), ("", "", false)] {
            let record = Record {
                boot: then.to_owned(),
                leases: Leases::from([("02:00:00:00:00:01".to_owned(), lease.clone())]),
            };
            let text = serde_json::to_string(&record).unwrap();
            let leases = serde_json::from_str::<Record>(&text)
                .unwrap()
                .into_leases(now);
            let found = &leases["02:00:00:00:00:01"];
            assert_eq!(found.address, lease.address);
            assert_eq!(dhcp::still_holds(found), holds, "{then} {now}");
        }
    }
}
