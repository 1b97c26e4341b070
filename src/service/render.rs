//! Files derived from a sandbox's configuration: staging root, domain, and the host's units.

use std::path::Path;

use guest_init::config::Credential;

use crate::driver::{InitUnits, ServiceBuild};
use crate::error::Result;
use crate::label::selinux;
use crate::service::image::Tree;
use crate::service::sandbox::LockedSandbox;
use crate::service::{host_unit, init_units};

/// Occasion of a rendering.
#[derive(Debug)]
pub(super) enum Occasion<'a> {
    /// The sandbox starts, with the block device of its tree's image and with its credentials.
    Start {
        device: Option<&'a Path>,
        credentials: Vec<Credential>,
    },
    /// The configuration is new or has changed, and perhaps the content of the tree.
    Change { tree: Option<&'a Path> },
}

impl LockedSandbox<'_> {
    /// Renders everything that is derived from the configuration.
    ///
    /// # Errors
    /// A template is invalid, a file cannot be written or libvirt refuses the domain.
    pub(super) fn render(&self) -> Result<()> {
        // Opening an image takes a mount, which only SELinux needs.
        let tree = match selinux::is_on() {
            true => Some(self.tree()?),
            false => None,
        };
        self.render_for(Occasion::Change {
            tree: tree.as_ref().map(Tree::path),
        })?;
        tree.map_or(Ok(()), |tree| tree.sync())
    }

    /// Renders everything that is derived from the configuration, at a start or after a change.
    pub(super) fn render_for(&self, occasion: Occasion<'_>) -> Result<()> {
        let (starts, device, changed, credentials) = match occasion {
            Occasion::Start {
                device,
                credentials,
            } => (true, device, None, credentials),
            Occasion::Change { tree } => (false, None, tree, vec![]),
        };
        let (config, store) = (self.config(), self.store());
        let facts = self.host().probe_host()?;
        let service = ServiceBuild {
            config,
            units: InitUnits {
                credentials,
                ..init_units::init_units(config, &store.templates)?
            },
            facts: &facts,
            stage: &self.stage(),
            record: &store.dir(self.name()),
            templates: &store.templates,
            device,
            starts,
            changed,
        };
        let hypervisor = self.hypervisor()?;
        hypervisor.define(&service.build(hypervisor)?)?;
        store.unlink_journal(config.uuid);
        host_unit::write(config, store)?;
        Ok(())
    }
}
