//! Summary of sandboxes for `list` and `status`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::config::{Publish, SandboxName};
use crate::driver::Guest;
use crate::error::{Error, Result};
use crate::hypervisor::{DomainState, Hypervisor};
use crate::service::connections::Connections;
use crate::service::inspect::addresses::Expected;
use crate::service::inspect::parallel::ask_all;
use crate::service::sandbox::Sandbox;
use crate::service::sandboxes::Sandboxes;
use crate::{host, label};

/// Present status of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Name.
    pub name: SandboxName,
    /// `running`, `stopped`, `frozen`, `failed` if it has ended with a failure, `broken` if it does not run and its configuration
    /// cannot be read, or `undefined` if libvirt does not know it.
    pub state: String,
    /// Reason of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Driver of libvirt.
    pub driver: String,
    /// Units that run in it.
    pub units: Vec<String>,
    /// Command that runs in it, in place of units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Addresses of a running sandbox: those that it reports and can have.
    pub addresses: Vec<String>,
    /// Published ports, open while it runs, and on demand also before.
    pub publish: Vec<Publish>,
    /// Private tree on the host.
    pub path: PathBuf,
    /// Image with the tree, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Host name inside.
    pub hostname: String,
    /// True if the host's systemd starts it at boot.
    pub enabled: bool,
    /// True if it runs programs or libraries that the host has replaced; absent if it does not run, or does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outdated: Option<bool>,
    /// Security label, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Time that a sandbox may take to tell what it has mapped, where many are listed.
const GLANCE: Duration = Duration::from_secs(3);

/// Handle to query a running sandbox for its addresses, and the addresses that it can have.
#[derive(Debug)]
struct Look {
    guest: Box<dyn Guest>,
    expected: Expected,
}

impl Summary {
    /// Adds the facts that only the sandbox knows.
    fn seen(mut self, look: Option<Look>) -> Self {
        if let Some(Look { guest, expected }) = look {
            self.addresses = expected.shown(guest.addresses());
            let replaced = guest.replaced_files(GLANCE);
            self.outdated = replaced.ok().map(|files| !files.is_empty());
        }
        self
    }
}

/// Returns the label of a sandbox, or `None` if the host at `root` has no security module.
pub(in crate::service) fn label_of(
    hypervisor: &dyn Hypervisor,
    root: &Path,
    name: &SandboxName,
) -> Result<Option<String>> {
    if !host::has_security_module(root) {
        return Ok(None);
    }
    let definition = hypervisor.definition(name.as_str())?;
    Ok(definition.and_then(|xml| label::of_domain(&xml)))
}

impl Sandbox<'_> {
    /// Returns the status of the sandbox.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn summary(&self) -> Result<Summary> {
        let (summary, look) = self.summary_by_host()?;
        Ok(summary.seen(look))
    }

    /// Returns the status as the host knows it, and a handle to query the sandbox itself, if it runs.
    fn summary_by_host(&self) -> Result<(Summary, Option<Look>)> {
        let (name, config, hypervisor) = (self.name(), self.config(), self.hypervisor()?);
        let state = self.state()?;
        let guest = match state {
            DomainState::Running { .. } => self.guest_in(state)?,
            DomainState::Frozen { .. } | DomainState::Stopped | DomainState::Missing => None,
        };
        let failure = match state {
            DomainState::Stopped => self.store().noted_failure(name),
            DomainState::Running { .. } | DomainState::Frozen { .. } | DomainState::Missing => None,
        };
        let label = label_of(hypervisor, &self.host().root, name)?;
        let look = guest.map(|guest| Look {
            guest,
            expected: Expected::of(config, hypervisor),
        });
        let summary = Summary {
            name: name.clone(),
            label,
            state: match failure {
                Some(_) => "failed",
                None => state.as_str(),
            }
            .to_owned(),
            failure,
            driver: self.driver()?.name().to_owned(),
            units: config.units().to_vec(),
            command: config
                .workload
                .command()
                .map(|command| command.argv.clone()),
            addresses: vec![],
            image: config.image_file(),
            publish: config.publish.clone(),
            path: config.path.clone(),
            hostname: config.hostname.clone(),
            enabled: self.store().is_enabled(name),
            outdated: None,
        };
        Ok((summary, look))
    }
}

impl Sandboxes {
    /// Returns the status of a sandbox whose configuration cannot be read, by the one that it was started or created with.
    fn broken_summary(&self, name: &SandboxName, error: &Error) -> Option<(Summary, Option<Look>)> {
        let sandbox = Sandbox::new(self, self.store.load_copy(name)?);
        let (mut summary, look) = sandbox.summary_by_host().ok()?;
        if !sandbox.is_running().ok()? {
            summary.state = "broken".to_owned();
        }
        summary.failure = Some(error.chain());
        Some((summary, look))
    }

    /// Returns the status of all sandboxes. A failed query is logged and the others are still listed: each may have its
    /// own connection.
    ///
    /// # Errors
    /// The sandboxes cannot be listed at all, or all queries of libvirt fail.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let mut summaries = Vec::new();
        let mut silent = Vec::new();
        let mut connections = Connections::default();
        for name in self.store.names()? {
            // A command is creating or deleting it right now.
            if !self.store.config(&name).exists() && !self.store.has_lost_config(&name) {
                continue;
            }
            let looked = self
                .get_connected(&name, &mut connections)
                .and_then(|sandbox| sandbox.summary_by_host());
            match looked {
                Ok(summary) => summaries.push(summary),
                Err(error @ Error::Libvirt { .. }) => silent.push((name, error)),
                Err(error) => {
                    log::warn!("{name}: {}", error.chain());
                    summaries.extend(self.broken_summary(&name, &error));
                }
            }
        }
        if summaries.is_empty() && !silent.is_empty() {
            return Err(silent.remove(0).1);
        }
        for (name, error) in silent {
            log::warn!("{name}: {}", error.chain());
        }
        Ok(ask_all(summaries, |(summary, look)| summary.seen(look)))
    }
}
