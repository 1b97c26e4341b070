//! What is derived from the configuration of a sandbox: its staging root, its domain, the host's units of it.

use std::path::Path;

use guest_init::config::Credential;

use crate::driver::{InitUnits, ServiceBuild};
use crate::error::Result;
use crate::host::HostFacts;
use crate::hypervisor::Hypervisor;
use crate::label::selinux;
use crate::service::image::Tree;
use crate::service::sandbox::LockedSandbox;
use crate::service::{host_unit, init_units};

/// Why what is derived from a configuration is made.
#[derive(Debug)]
pub(super) enum Occasion<'a> {
    /// The sandbox starts, with the block device that the image of its tree has while it runs, and its credentials.
    Start {
        device: Option<&'a Path>,
        credentials: Vec<Credential>,
    },
    /// The configuration is new or has changed, and perhaps what is in the tree.
    Change { tree: Option<&'a Path> },
}

impl LockedSandbox<'_> {
    /// Derives everything from the configuration anew.
    ///
    /// # Errors
    /// Where a template is wrong, a file cannot be written or libvirt refuses the domain.
    pub(super) fn render(&self) -> Result<()> {
        // Of an image that is a mount, which only SELinux needs.
        let tree = match selinux::is_on() {
            true => Some(self.tree()?),
            false => None,
        };
        self.render_for(Occasion::Change {
            tree: tree.as_ref().map(Tree::path),
        })?;
        tree.map_or(Ok(()), |tree| tree.sync())
    }

    /// Derives everything from the configuration anew, at the sandbox's start or after a change.
    pub(super) fn render_for(&self, occasion: Occasion<'_>) -> Result<()> {
        let (starts, device, changed, credentials) = match occasion {
            Occasion::Start {
                device,
                credentials,
            } => (true, device, None, credentials),
            Occasion::Change { tree } => (false, None, tree, vec![]),
        };
        let (config, store) = (self.config(), self.store());
        let facts = HostFacts::probe(Path::new("/"))?;
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
