//! What is known of sandboxes at a glance.

use std::path::{Path, PathBuf};

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

/// What is known of a sandbox right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: SandboxName,
    /// `running`, `stopped`, `paused`, `failed` if it has ended by itself and not well, or `undefined` where libvirt has forgotten it.
    pub state: String,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The hypervisor's driver.
    pub driver: String,
    /// The units that run in it.
    pub units: Vec<String>,
    /// The command that runs in it, if it is not units of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Addresses of the sandbox, if it runs and has any: those that it reports, but for those it cannot have.
    pub addresses: Vec<String>,
    /// Its ports that the host answers on while it runs, and on demand also before.
    pub publish: Vec<Publish>,
    /// Its private tree on the host.
    pub path: PathBuf,
    /// The image that holds the tree, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Host name inside.
    pub hostname: String,
    /// Whether the host's systemd starts it at boot.
    pub enabled: bool,
    /// The label that the host's security module knows it by, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Handle to ask a running sandbox for its addresses, and the addresses that it can have.
#[derive(Debug)]
struct Look {
    guest: Box<dyn Guest>,
    expected: Expected,
}

impl Summary {
    /// Adds what only the sandbox tells.
    fn seen(mut self, look: Option<Look>) -> Self {
        if let Some(Look { guest, expected }) = look {
            self.addresses = expected.shown(guest.addresses());
        }
        self
    }
}

/// Returns the label of a sandbox; `None` where nothing of the host labels any.
pub(in crate::service) fn label_of(
    hypervisor: &dyn Hypervisor,
    name: &SandboxName,
) -> Result<Option<String>> {
    if !host::has_security_module(Path::new("/")) {
        return Ok(None);
    }
    let definition = hypervisor.definition(name.as_str())?;
    Ok(definition.and_then(|xml| label::of_domain(&xml)))
}

impl Sandbox<'_> {
    /// Returns what is known of the sandbox.
    ///
    /// # Errors
    /// Where libvirt does not answer.
    pub fn summary(&self) -> Result<Summary> {
        let (summary, look) = self.summary_by_host()?;
        Ok(summary.seen(look))
    }

    /// Returns its summary as the host knows it, and the handle to ask the sandbox itself, if it runs.
    fn summary_by_host(&self) -> Result<(Summary, Option<Look>)> {
        let (name, config, hypervisor) = (self.name(), self.config(), self.hypervisor()?);
        let state = self.state()?;
        let guest = match state {
            DomainState::Running { .. } => self.guest_in(state)?,
            DomainState::Paused { .. } | DomainState::Stopped | DomainState::Missing => None,
        };
        let failure = match state {
            DomainState::Stopped => self.store().noted_failure(name),
            DomainState::Running { .. } | DomainState::Paused { .. } | DomainState::Missing => None,
        };
        let label = label_of(hypervisor, name)?;
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
        };
        Ok((summary, look))
    }
}

impl Sandboxes {
    /// Returns what is known of every sandbox. One that cannot be looked at is said, and the others still listed: each may have a
    /// connection of its own.
    ///
    /// # Errors
    /// Where the sandboxes cannot be listed at all, or libvirt answers for none.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let mut summaries = Vec::new();
        let mut silent = Vec::new();
        let mut connections = Connections::default();
        for name in self.store.names()? {
            // Half made, by a command that is at it.
            if !self.store.config(&name).exists() {
                continue;
            }
            let looked = self
                .get_connected(&name, &mut connections)
                .and_then(|sandbox| sandbox.summary_by_host());
            match looked {
                Ok(summary) => summaries.push(summary),
                Err(error @ Error::Libvirt { .. }) => silent.push((name, error)),
                Err(error) => log::warn!("{name}: {}", error.chain()),
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
