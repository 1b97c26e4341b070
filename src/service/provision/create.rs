//! Creation of a sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Device, Mount, SandboxConfig, SandboxName, State, Workload};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::facts::discover::{self, Fact, Service};
use crate::facts::unit::special::Role;
use crate::facts::{command, in_use};
use crate::guest;
use crate::host::{HostFacts, Inventory, SystemDir};
use crate::service::base::{Base, Provenance};
use crate::service::sandbox::Sandbox;
use crate::service::sandboxes::Sandboxes;
use crate::service::{image, init_units, preflight};
use crate::tree::manifest::Manifest;
use crate::tree::{self, Class, TreePlan, place};

/// Warning for a host whose packages are unknown.
const UNKNOWN_PACKAGES: &str = "this host has no package database that can be read (dpkg, rpm or pacman): the files of the service \
    are found by its units, accounts and names alone; 'create --dry-run' shows them, '-m host-bind:PATH=PATH' adds a missing one";

/// Plan of a new sandbox.
#[derive(Debug)]
pub struct Plan {
    /// Configuration.
    pub config: SandboxConfig,
    /// Tree.
    pub tree: TreePlan,
    /// Packages of the service, each with the reason.
    pub packages: Vec<(String, String)>,
    /// Record for upgrades.
    pub(in crate::service) base: Base,
}

impl Sandboxes {
    /// Returns a draft of a new sandbox: the user's settings replace its defaults, [`plan`](Self::plan) adds the facts of the
    /// service. `base` is the parent directory of its tree, in place of the default.
    #[must_use]
    pub fn draft(
        &self,
        name: SandboxName,
        workload: Workload,
        base: Option<&Path>,
    ) -> SandboxConfig {
        let path = self.tree_of(&name, base);
        SandboxConfig::new(name, &self.connection, workload, path)
    }

    /// Discovers the service of a [`draft`](Self::draft) and plans the sandbox. Nothing on disk changes.
    ///
    /// # Errors
    /// A unit that does not exist or cannot work in a sandbox, a package that is not installed, state that is being
    /// written, an unknown network, a missing source of a mount.
    pub fn plan(&self, draft: SandboxConfig, state: State) -> Result<Plan> {
        self.check(&draft)?;
        let root = self.root.as_path();
        let mut config = draft;
        let (workload, service) =
            resolve_workload(root, &config.workload, &config.packages, &config.hostname)?;
        if !service.has_database() {
            log::warn!("{UNKNOWN_PACKAGES}");
        }
        if let Some(rules) = service.password_rules(root) {
            log::info!(
                "'{}' asks for passwords of accounts; those of the host stay outside: once it runs, 'virt-sandbox-service execute {name} -- \
                 useradd -m USER' makes an account inside, and '… -- passwd USER' gives it a password",
                rules.display(),
                name = config.name
            );
        }
        let driver = Driver::of_service(&config.connection)?;
        let container = driver.container();
        if container.is_some() {
            config.devices = devices(&config.devices, &service);
        }
        preflight::check(
            root,
            &service,
            container,
            &config.capabilities,
            &config.devices,
        )?;
        config.keep_units = keep_units(&service, &workload);
        config
            .mounts
            .splice(..0, program_mounts(&service, &workload));
        config.workload = workload;
        config.service_packages = service.packages.keys().map(ToString::to_string).collect();
        config.complete_networks();
        config.check()?;
        driver.check(&config)?;
        let mut tree = TreePlan::new(root, &config, &service, state)?;
        if state == State::Auto {
            in_use::refuse_live_state(&service, &tree.state)?;
        }
        if config.image.is_none() {
            config.image = image::needed_by(root, driver, &config.kernel, Some(&tree))?;
        }
        if let Some(image) = config.image {
            image::check_size(image, &tree, root)?;
            place::check_image(&config)?;
        }
        add_shared(&mut tree, &self.probe_host()?);
        let packages = service
            .packages
            .iter()
            .map(|(package, reason)| (package.to_string(), reason.clone()))
            .collect();
        Ok(Plan {
            base: Base::of(&tree, &service)?,
            config,
            tree,
            packages,
        })
    }

    /// Creates a sandbox. Cancellation undoes everything.
    ///
    /// # Errors
    /// Errors of [`plan`](Self::plan); the name is taken, the place of the tree is not empty, the disk is full or libvirt refuses. After
    /// an error nothing is left.
    pub fn create(&self, draft: SandboxConfig, state: State) -> Result<Sandbox<'_>> {
        let plan = self.plan(draft, state)?;
        self.provision(&plan.config, &mut |tree| {
            let cancelled = || self.is_cancelled();
            let report = tree::apply(&plan.tree, &self.root, tree, &cancelled)?;
            for skipped in &report.skipped {
                log::debug!("not copied: {skipped}");
            }
            Ok(Provenance {
                manifest: Manifest::scan(tree, &[Path::new("/etc")])?,
                base: plan.base.clone(),
            })
        })?;
        Ok(Sandbox::new(self, plan.config))
    }

    /// Checks everything that needs no discovery of the service.
    fn check(&self, draft: &SandboxConfig) -> Result<()> {
        self.check_name(&draft.name)?;
        place::check(&draft.path)?;
        check_mounts(&draft.mounts)?;
        Inventory::probe(&self.root).check(&draft.resources, &draft.networks)?;
        guest::credentials(&draft.credentials).map(drop)
    }
}

/// Resolves the workload to names of the host, and discovers the service.
pub(in crate::service) fn resolve_workload(
    root: &Path,
    workload: &Workload,
    packages: &[String],
    hostname: &str,
) -> Result<(Workload, Service)> {
    match workload {
        Workload::Units(units) => {
            let service = Service::discover(root, units, packages, hostname)?;
            let units = service.units.iter().map(ToString::to_string).collect();
            Ok((Workload::Units(units), service))
        }
        Workload::Command(command) => {
            let mut accounts = discover::read_accounts(root);
            let found = command::resolve(command, &mut accounts)?;
            let unit = init_units::command::of(&found.command)?;
            let service = Service::of_unit(root, unit, &found.programs, accounts, packages)?;
            Ok((Workload::Command(found.command), service))
        }
    }
}

/// Returns read-only mounts of programs outside of `/usr`.
pub(in crate::service) fn program_mounts(service: &Service, workload: &Workload) -> Vec<Mount> {
    let mut mounts = programs_elsewhere(service);
    if let Workload::Command(_) = workload {
        mounts.extend(command::programs_in_srv(service));
    }
    mounts
}

/// Returns read-only mounts of programs of the units outside of the system's directories, such as `/opt/X`.
fn programs_elsewhere(service: &Service) -> Vec<Mount> {
    let tops: BTreeSet<PathBuf> = service
        .paths
        .iter()
        .filter(|(_, fact)| matches!(fact, Fact::Unit(..) | Fact::Package(_)))
        .filter_map(|(path, _)| {
            let mut names = path.components();
            names.next()?;
            let first = names.next()?.as_os_str();
            let is_elsewhere = !SHOWN.iter().any(|shown| first == *shown);
            let top = Path::new("/").join(first);
            is_elsewhere.then(|| match names.next() {
                Some(second) => top.join(second),
                None => top,
            })
        })
        .collect();
    tops.iter()
        .filter_map(|top| Mount::read_only_view(top).ok())
        .collect()
}

/// Returns the requested devices, and those that the units need and that are safe to give.
fn devices(asked: &[Device], service: &Service) -> Vec<Device> {
    let members = service.closure.members.iter();
    let rules = members
        .filter(|member| member.role == Role::Service)
        .filter_map(|member| member.loaded.as_ref())
        .flat_map(|loaded| &loaded.1.device_rules);
    let of_units = rules
        .filter_map(|rule| rule.device.parse::<Device>().ok())
        .filter(|device| device.is_harmless() && device.path().exists());
    let all: BTreeSet<Device> = asked.iter().cloned().chain(of_units).collect();
    all.into_iter().collect()
}

/// Top-level directories that every sandbox has.
const SHOWN: [&str; 17] = [
    "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "var", "home", "root", "srv",
    "run", "tmp", "dev", "proc", "sys",
];

/// Returns the boot-time units in the host's `/usr` that belong to the service.
pub(in crate::service) fn keep_units(service: &Service, workload: &Workload) -> Vec<String> {
    if let Workload::Command(_) = workload {
        return vec![];
    }
    let names: BTreeSet<String> = service
        .closure
        .members
        .iter()
        .filter(|member| member.role == Role::Service)
        .map(|member| member.name.to_string())
        .collect();
    names.into_iter().collect()
}

/// Adds the system directories that the sandbox shares with the host.
fn add_shared(tree: &mut TreePlan, facts: &HostFacts) {
    for dir in &facts.system_dirs {
        let (path, reason) = match dir {
            SystemDir::Directory(path) => (path, "programs of the host".to_owned()),
            SystemDir::Link(path, target) => (path, format!("link to {}", target.display())),
        };
        let entry = tree::Entry {
            class: Class::Shared,
            reason,
        };
        tree.entries.insert(path.clone(), entry);
    }
}

pub(in crate::service) fn check_mounts(mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        if let Some(source) = mount.host_source() {
            fs::metadata(source).map_err(|error| {
                Error::refused(format!(
                    "mount '{mount}': looking at '{}': {error}",
                    source.display()
                ))
            })?;
        }
    }
    Ok(())
}
