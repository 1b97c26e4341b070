//! Creation of a sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::network::{DEFAULT_SOURCE, Source};
use crate::config::sandbox::VERSION;
use crate::config::{
    Confinement, Credential, Device, FileType, Hostname, KernelRequest, Mac, Mount, Network,
    Publish, Resources, SandboxConfig, SandboxName, Security, State, TreeImage, Workload,
};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::facts::discover::{self, Fact, Service};
use crate::facts::unit::special::Role;
use crate::facts::{command, in_use};
use crate::service::base::{Base, Provenance};
use crate::service::sandbox::Sandbox;
use crate::service::sandboxes::Sandboxes;
use crate::service::{image, init_units, preflight};
use crate::tree::manifest::Manifest;
use crate::tree::{self, Class, TreePlan, place};
use crate::{guest, host};

/// Request for a new sandbox.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name.
    pub name: SandboxName,
    /// Units or command to run. The program of a command is looked up.
    pub workload: Workload,
    /// Packages in addition to the discovered ones.
    pub packages: Vec<String>,
    /// Parent directory of its tree, in place of the default.
    pub base: Option<PathBuf>,
    /// Treatment of the service's state.
    pub state: State,
    /// NICs.
    pub networks: Vec<Network>,
    /// Credentials that the sandbox gets.
    pub credentials: Vec<Credential>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the host, in addition to those that its units need.
    pub devices: Vec<Device>,
    /// Kernel of a virtual machine.
    pub kernel: KernelRequest,
    /// Security label, if not the default.
    pub security: Option<Security>,
    /// SELinux type of its files, if not the default.
    pub file_type: Option<FileType>,
    /// Ports that are published on the host.
    pub publish: Vec<Publish>,
    /// True to start it at the first connection to a published port.
    pub on_demand: bool,
    /// Seconds without a connection after which such a sandbox stops.
    pub idle_stop: Option<u32>,
    /// Image for its tree, in place of a directory.
    pub image: Option<TreeImage>,
    /// Limits.
    pub resources: Resources,
    /// Restrictions of root inside.
    pub confinement: Confinement,
    /// Host name inside; by default the name of the sandbox.
    pub hostname: Option<Hostname>,
    /// Seconds that the units may take to become active.
    pub timeout: u32,
}

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
    /// Discovers the service and plans the sandbox. Nothing on disk changes.
    ///
    /// # Errors
    /// A unit that does not exist or cannot work in a sandbox, a package that is not installed, state that is being
    /// written, an unknown network, a missing source of a mount.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        self.check(request)?;
        let root = Path::new("/");
        let hostname = request
            .hostname
            .clone()
            .unwrap_or_else(|| Hostname::of(&request.name))
            .to_string();
        let (workload, service) =
            resolve_workload(root, &request.workload, &request.packages, &hostname)?;
        let driver = Driver::of_service(&self.connection)?;
        let container = driver.container();
        let devices = match container {
            Some(_) => devices(&request.devices, &service),
            None => request.devices.clone(),
        };
        let capabilities = &request.confinement.capabilities;
        preflight::check(root, &service, container, capabilities, &devices)?;
        let uuid = uuid::Uuid::new_v4();
        let mut networks = request.networks.clone();
        for (index, network) in networks.iter_mut().enumerate() {
            network
                .source
                .get_or_insert_with(|| Source::Network(DEFAULT_SOURCE.to_owned()));
            network
                .mac
                .get_or_insert_with(|| Mac::of_sandbox(&uuid, index));
        }
        let mut config = SandboxConfig {
            version: VERSION,
            name: request.name.clone(),
            uuid,
            connection: self.connection.clone(),
            keep_units: keep_units(&service, &workload),
            mounts: program_mounts(&service, &workload)
                .into_iter()
                .chain(request.mounts.clone())
                .collect(),
            devices,
            credentials: request.credentials.clone(),
            workload,
            packages: request.packages.clone(),
            service_packages: service.packages.keys().map(ToString::to_string).collect(),
            path: self.tree_of(&request.name, request.base.as_deref()),
            hostname,
            timeout: request.timeout,
            networks,
            security: request.security.clone(),
            file_type: request.file_type.clone(),
            publish: request.publish.clone(),
            on_demand: request.on_demand,
            idle_stop: request.idle_stop,
            kernel: request.kernel.clone(),
            image: request.image,
            idmap: request.confinement.idmap,
            seccomp: request.confinement.seccomp.clone(),
            capabilities: request.confinement.capabilities.clone(),
            resources: request.resources.clone(),
        };
        config.check()?;
        driver.check(&config)?;
        let mut tree = TreePlan::new(root, &config, &service, request.state)?;
        if request.state == State::Auto {
            in_use::refuse_live_state(&service, &tree.state)?;
        }
        if config.image.is_none() {
            config.image = image::needed_by(driver, &config.kernel, Some((&tree, root)))?;
        }
        if let Some(image) = config.image {
            image::check_size(image, &tree, root)?;
            place::check_image(&config)?;
        }
        add_shared(&mut tree);
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
    pub fn create(&self, request: &Request) -> Result<Sandbox<'_>> {
        let plan = self.plan(request)?;
        let config = &plan.config;
        self.provision(config, &mut |tree| {
            let cancelled = || self.is_cancelled();
            let report = tree::apply(&plan.tree, Path::new("/"), tree, &cancelled)?;
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
    fn check(&self, request: &Request) -> Result<()> {
        let name = &request.name;
        self.check_name(name)?;
        place::check(&self.tree_of(name, request.base.as_deref()))?;
        check_mounts(&request.mounts)?;
        guest::credentials(&request.credentials).map(drop)
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
fn add_shared(tree: &mut TreePlan) {
    let Ok(facts) = host::HostFacts::probe(Path::new("/")) else {
        return;
    };
    for dir in facts.system_dirs {
        let (path, reason) = match dir {
            host::SystemDir::Directory(path) => (path, "programs of the host".to_owned()),
            host::SystemDir::Link(path, target) => (path, format!("link to {}", target.display())),
        };
        let entry = tree::Entry {
            class: Class::Shared,
            reason,
        };
        tree.entries.insert(path, entry);
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
