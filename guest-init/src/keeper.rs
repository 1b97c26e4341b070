//! The process that outlives PID 1's own work: it keeps the leases of the sandbox.
//!
//! Leases are remembered in the sandbox's `/var`, so that the next start asks for the same address and need
//! not wait until the server has made sure that a new one is free.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use log::warn;

use crate::config::Nic;
use crate::dhcp::{self, Lease, LeaseEvent};
use crate::network::{self, Kept};
use crate::{process, resolv};

/// Where the leases are remembered, in the sandbox.
const LEASES: &str = "/var/lib/virt-sandbox/leases.json";

/// How long the payload waits for an address. A bridge with STP takes four seconds until it lets anything through,
/// and libvirt's server three more to make sure that a new address is free.
const DEADLINE: Duration = Duration::from_secs(20);

/// All that keeping a lease takes.
const CAPABILITIES: [Capability; 3] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Leases by [`Kept::key`].
type Leases = BTreeMap<String, Lease>;

/// Raises the loopback and the NICs, gives them addresses, and leaves a process behind that renews
/// those which are leased.
pub fn start(nics: &[Nic], hostname: &str) -> Result<()> {
    let kept = network::configure(nics, hostname, &remembered(), DEADLINE)
        .context("starting the network")?;
    if kept.is_empty() {
        return Ok(());
    }
    let leases: Leases = kept
        .iter()
        .filter_map(|kept| Some((kept.key(), kept.lease()?.clone())))
        .collect();
    record(&leases);
    process::spawn(|| {
        if let Err(error) = give_up_capabilities() {
            warn!("keeping the leases: {error:#}");
        }
        let leases = Mutex::new(leases);
        std::thread::scope(|scope| {
            for kept in &kept {
                let leases = &leases;
                scope.spawn(move || keep(kept, hostname, leases));
            }
        });
        0
    })?;
    Ok(())
}

fn keep(kept: &Kept, hostname: &str, leases: &Mutex<Leases>) {
    dhcp::keep(&kept.interface, hostname, kept.known.clone(), |event| {
        let mut leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            LeaseEvent::Obtained { lease, .. } => leases.insert(kept.key(), lease.clone()),
            LeaseEvent::Lost(_) => leases.remove(&kept.key()),
        };
        record(&leases);
    });
}

fn remembered() -> Leases {
    fs::read_to_string(LEASES)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Writes down what is known; the sandbox works without, so a failure is only said.
fn record(leases: &Leases) {
    if let Some(content) = network::resolv_conf(leases.values())
        && let Err(error) = resolv::write(Path::new("/"), &content)
    {
        warn!("{error}");
    }
    let write = || -> Result<()> {
        if let Some(parent) = Path::new(LEASES).parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(fs::write(LEASES, serde_json::to_vec(leases)?)?)
    };
    if let Err(error) = write() {
        warn!("writing '{LEASES}': {error}");
    }
}

fn give_up_capabilities() -> Result<()> {
    let kept: CapsHashSet = CAPABILITIES.into_iter().collect();
    caps::set(None, CapSet::Effective, &kept).context("giving up capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("giving up capabilities")
}
