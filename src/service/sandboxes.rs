//! The sandboxes of a host: what every operation needs, and the operations that are a few lines.

use std::path::Path;

use guest_init::config::{Credential, File};
use serde::Serialize;

use crate::config::{SandboxConfig, SandboxName};
use crate::domain::template::Template;
use crate::driver::{Contents, Inside, Keeper, Owners, Shared, Site};
use crate::error::{Error, Result};
use crate::guest;
use crate::guest::kernel;
use crate::host::HostFacts;
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::label::{apparmor, selinux};
use crate::service::image::Tree;
use crate::service::store::{Removal, Store};
use crate::service::unit::escape::escape_path;
use crate::service::{command, package, place, services_d};

/// The sandboxes of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandboxes {
    /// Where they are kept.
    pub store: Store,
    /// The libvirt connection of new ones.
    pub connection: String,
}

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

impl Sandboxes {
    /// Those of this host, new ones on `connection`.
    #[must_use]
    pub fn new(connection: &str) -> Self {
        Self {
            store: Store::default(),
            connection: connection.to_owned(),
        }
    }

    /// Takes away what commands that were cut short have left, and undoes upgrades that were.
    ///
    /// # Errors
    /// Where libvirt does not answer, and only if there is something to take away.
    pub fn recover(&self) -> Result<()> {
        self.thaw()?;
        self.empty_boot_files()?;
        self.finish_renames()?;
        self.resolve_snapshots()?;
        for (removal, lock) in self.store.interrupted()? {
            log::info!(
                "removing what is left of '{}', whose create or delete was interrupted",
                removal.name
            );
            // One that cannot be removed must not be in the way of every other command.
            let removed = Libvirt::open(&removal.connection)
                .and_then(|hypervisor| self.remove(&removal, &hypervisor));
            if let Err(error) = removed {
                log::warn!("removing what is left of '{}': {error}", removal.name);
            }
            drop(lock);
        }
        self.recover_upgrades()
    }

    /// Takes away a sandbox, as far as it is there.
    ///
    /// # Errors
    /// Where libvirt refuses, or its tree is not its own any more; what is left can be removed later.
    pub(super) fn remove(&self, removal: &Removal, hypervisor: &dyn Hypervisor) -> Result<()> {
        let name = &removal.name;
        if removal.registered {
            hypervisor.destroy(name.as_str())?;
            hypervisor.undefine(name.as_str())?;
            self.remove_unit(name);
            apparmor::unload(&removal.uuid);
            self.store.unlink_journal(removal.uuid);
            guest::cgroup::remove(name);
        }
        if let Some(tree) = &removal.tree {
            selinux::forget(tree);
            if let Some(image) = &removal.image {
                place::remove_image(tree, image, removal.uuid)?;
            }
            place::remove(tree, removal.uuid)?;
            self.remove_base(tree);
        }
        self.store.forget(name);
        Ok(())
    }

    /// Removes the directory of all trees with the last of them, unless it came with a package.
    fn remove_base(&self, tree: &Path) {
        let base = &self.store.trees;
        let is_last = tree.parent() == Some(base)
            && std::fs::read_dir(base).is_ok_and(|mut entries| entries.next().is_none());
        let is_shipped = || {
            let database = package::open(Path::new("/")).ok().flatten();
            database.is_some_and(|database| {
                database.owners(base).is_ok_and(|owners| !owners.is_empty())
            })
        };
        if is_last && !is_shipped() {
            let _ = std::fs::remove_dir(base);
        }
    }

    /// Makes everything that is derived from the configuration anew: the staging root, the domain, the host's unit.
    ///
    /// # Errors
    /// Where a template is wrong, a file cannot be written or libvirt refuses the domain.
    pub(super) fn render(&self, config: &SandboxConfig, hypervisor: &dyn Hypervisor) -> Result<()> {
        // Of an image that is a mount, which only SELinux needs.
        let tree = match selinux::is_on() {
            true => Some(self.tree(config)?),
            false => None,
        };
        let occasion = Occasion::Change {
            tree: tree.as_ref().map(Tree::path),
        };
        self.render_with(config, occasion, hypervisor)?;
        tree.map_or(Ok(()), |tree| tree.settle())
    }

    /// Makes everything that is derived from the configuration anew, at the sandbox's start or after a change.
    pub(super) fn render_with(
        &self,
        config: &SandboxConfig,
        occasion: Occasion<'_>,
        hypervisor: &dyn Hypervisor,
    ) -> Result<()> {
        let (starts, device, changed, credentials) = match occasion {
            Occasion::Start {
                device,
                credentials,
            } => (true, device, None, credentials),
            Occasion::Change { tree } => (false, None, tree, vec![]),
        };
        let facts = HostFacts::probe(Path::new("/"))?;
        let site = Site {
            stage: &self.store.stage(&config.name),
            record: &self.store.dir(&config.name),
            templates: &self.store.templates,
            device,
            starts,
            changed,
        };
        let keeper = self.keeper(config)?;
        let contents = Contents {
            credentials,
            ..self.contents(config)?
        };
        hypervisor.define(&keeper.build(config, contents, &facts, site, hypervisor)?)?;
        self.store.unlink_journal(config.uuid);
        self.write_unit(config)?;
        Ok(())
    }

    /// Empties what killed commands have left of what virtual machines boot from.
    fn empty_boot_files(&self) -> Result<()> {
        let files = |name: &SandboxName| self.store.stage(name).join(kernel::COPIES);
        let has_content = |name: &SandboxName| kernel::Boot::has_content(&files(name));
        for (name, lock) in self.store.abandoned_where(has_content)? {
            if let Err(error) = kernel::Boot::empty(&files(&name)) {
                log::warn!("{error}");
            }
            drop(lock);
        }
        Ok(())
    }

    /// What the services want inside.
    fn contents(&self, config: &SandboxConfig) -> Result<Contents> {
        #[derive(Serialize)]
        struct View<'a> {
            name: &'a SandboxName,
            units: Vec<&'a str>,
        }
        let init_units = services_d::init_units(config, &self.store)?;
        let view = View {
            name: &config.name,
            units: config
                .units()
                .iter()
                .map(String::as_str)
                .chain(init_units.iter().map(|unit| unit.name.as_str()))
                .collect(),
        };
        let target = Template::BootTarget.render(&view, Some(&self.store.templates))?;
        let unit_file = |name: &str, content: String| File {
            path: Path::new(command::unit::DIRECTORY).join(name),
            mode: 0o644,
            content,
        };
        let mut files = vec![unit_file(BOOT_TARGET, target)];
        if let Some(command) = config.workload.command() {
            let overrides = &self.store.templates;
            let (credentials, seconds) = (&config.credentials, config.timeout);
            files.extend(command::unit::files(
                command,
                credentials,
                seconds,
                overrides,
            )?);
            files.push(unit_file(
                command::unit::END,
                command::unit::end(overrides)?,
            ));
        }
        files.extend(
            init_units
                .into_iter()
                .map(|unit| unit_file(&unit.name, unit.content)),
        );
        files.extend(lasting(config).map(|(name, text)| unit_file(&name, text.to_owned())));
        let keep = KEPT_UNITS.iter().map(ToString::to_string);
        Ok(Contents {
            files,
            credentials: vec![],
            keep_units: keep.chain(config.keep_units.iter().cloned()).collect(),
            target: BOOT_TARGET.to_owned(),
        })
    }

    /// The driver that keeps a sandbox.
    ///
    /// # Errors
    /// Where its configuration names none.
    pub(super) fn keeper(&self, config: &SandboxConfig) -> Result<Keeper> {
        Keeper::of(&config.connection)
    }

    /// The way into a sandbox; `None` where it does not run.
    ///
    /// # Errors
    /// Where libvirt does not answer.
    pub(super) fn inside(
        &self,
        config: &SandboxConfig,
        hypervisor: &dyn Hypervisor,
    ) -> Result<Option<Box<dyn Inside>>> {
        self.inside_of(config, hypervisor.state(config.name.as_str())?)
    }

    /// The way into a sandbox that is in this state.
    ///
    /// # Errors
    /// Where its configuration names no driver.
    pub(super) fn inside_of(
        &self,
        config: &SandboxConfig,
        state: DomainState,
    ) -> Result<Option<Box<dyn Inside>>> {
        let stage = self.store.stage(&config.name);
        Ok(self.keeper(config)?.inside(config, &stage, state))
    }

    /// A connection for the domain of a sandbox.
    ///
    /// # Errors
    /// Where no daemon answers.
    pub(super) fn hypervisor(&self, config: &SandboxConfig) -> Result<Libvirt> {
        Libvirt::open(&config.connection)
    }

    /// Reaches into a running sandbox.
    ///
    /// # Errors
    /// Where it does not run; the message says how to start it.
    pub fn enter(&self, name: &SandboxName) -> Result<Box<dyn Inside>> {
        let config = self.store.load(name)?;
        let state = self.hypervisor(&config)?.state(name.as_str())?;
        if let DomainState::Paused { .. } = state {
            return Err(Error::refused(format!(
                "the sandbox '{name}' is paused; resume it with 'virsh -c {} resume {name}'",
                config.connection
            )));
        }
        self.inside_of(&config, state)?.ok_or_else(|| {
            Error::refused(format!(
                "the sandbox '{name}' does not run; start it with 'virt-sandbox-service start {name}'"
            ))
        })
    }

    /// Has the files of a sandbox on the host be as it sees them, where it runs.
    ///
    /// # Errors
    /// Where there is no such sandbox, or libvirt or the sandbox does not answer.
    pub fn settle(&self, name: &SandboxName) -> Result<()> {
        let config = self.store.load(name)?;
        match self.hypervisor(&config)?.state(name.as_str())? {
            state @ DomainState::Running { .. } => match self.inside_of(&config, state)? {
                Some(inside) => inside.settle(),
                None => Ok(()),
            },
            DomainState::Paused { .. } | DomainState::Stopped | DomainState::Missing => Ok(()),
        }
    }

    /// How the files of the tree of a sandbox keep their owners.
    ///
    /// # Errors
    /// Where ids are asked for that cannot be had.
    pub fn owners(&self, config: &SandboxConfig) -> Result<Owners> {
        let facts = HostFacts::probe(Path::new("/"))?;
        let record = self.store.dir(&config.name);
        self.keeper(config)?.owners(config, &facts, &record)
    }

    /// How the directories of the host get into a sandbox.
    ///
    /// # Errors
    /// Where one cannot.
    pub fn sharing(&self, config: &SandboxConfig) -> Result<Vec<Shared>> {
        let facts = HostFacts::probe(Path::new("/"))?;
        self.keeper(config)?.sharing(config, &facts)
    }
}

/// Static boot-time units that every sandbox keeps: the journal, temporary files, the message bus, and leave to log in.
/// `systemd-user-sessions` removes `/run/nologin`, without which logins by password are refused.
pub(super) const KEPT_UNITS: [&str; 9] = [
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-journal-flush.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-user-sessions.service",
    "dbus.socket",
    "dbus.service",
];

/// The boot target inside.
const BOOT_TARGET: &str = "virt-sandbox.target";

/// Of the mounts below a sandbox's root: systemd inside cannot unmount them, and says so of each when it stops.
const LASTING: &str = "[Unit]\nDefaultDependencies=no\n";

/// As [`LASTING`]; `basic.target` looks for this unit before there are mounts, and then no drop-in of it is read any more.
const TMP: (&str, &str) = (
    "tmp.mount",
    "[Unit]\nDefaultDependencies=no\n[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n",
);

/// Units and drop-ins for the mounts that are there before systemd, and after it.
fn lasting(config: &SandboxConfig) -> impl Iterator<Item = (String, &'static str)> {
    let own = guest::PRIVATE_DIRS.map(Path::new).into_iter();
    let mounts = config.mounts.iter().map(|mount| mount.target().as_path());
    let drop_in = |target| format!("{}.mount.d/virt-sandbox.conf", escape_path(target));
    own.chain(mounts)
        .map(move |target| (drop_in(target), LASTING))
        .chain([(TMP.0.to_owned(), TMP.1)])
}
