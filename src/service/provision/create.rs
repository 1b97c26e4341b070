//! Making a sandbox.

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

/// What a new sandbox is to be.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its name.
    pub name: SandboxName,
    /// What runs in it. The program of a command is searched for.
    pub workload: Workload,
    /// Packages beside those that are found.
    pub packages: Vec<String>,
    /// Directory its tree is made in, instead of the usual one.
    pub base: Option<PathBuf>,
    /// What becomes of the service's state.
    pub state: State,
    /// Its NICs.
    pub networks: Vec<Network>,
    /// Credentials that the sandbox gets.
    pub credentials: Vec<Credential>,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// Devices of the host that it has, beside those that its units ask for.
    pub devices: Vec<Device>,
    /// The kernel that a virtual machine boots.
    pub kernel: KernelRequest,
    /// Its security label, where it is not the usual one.
    pub security: Option<Security>,
    /// The type that SELinux knows its files by, where it is not the usual one.
    pub file_type: Option<FileType>,
    /// Its ports that the host answers on.
    pub publish: Vec<Publish>,
    /// Whether it is started when one of them is first asked for.
    pub on_demand: bool,
    /// Seconds without a connection after which it is stopped then.
    pub idle_stop: Option<u32>,
    /// The image that its tree is to be in, instead of a directory.
    pub image: Option<TreeImage>,
    /// Its limits.
    pub resources: Resources,
    /// What holds its root back.
    pub confinement: Confinement,
    /// Host name inside, instead of the sandbox's name.
    pub hostname: Option<Hostname>,
    /// Seconds the units may take to become active.
    pub timeout: u32,
}

/// What making a sandbox would do.
#[derive(Debug)]
pub struct Plan {
    /// Its configuration.
    pub config: SandboxConfig,
    /// Its tree.
    pub tree: TreePlan,
    /// The packages of the service, and why each is one.
    pub packages: Vec<(String, String)>,
    /// What is recorded of it for an upgrade.
    pub(in crate::service) base: Base,
}

impl Sandboxes {
    /// Finds out what belongs to the service, and plans. Nothing is changed.
    ///
    /// # Errors
    /// A unit that is not there or cannot work in a sandbox, a package that is not installed, state that is being
    /// written, a network that libvirt does not have, a source of a mount that is missing.
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

    /// Makes a sandbox. If that is cancelled, everything is undone.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); where the name is taken, the tree's place is not empty, the disk is full or libvirt refuses. After
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

    /// Checks what can be without looking for what belongs to the service.
    fn check(&self, request: &Request) -> Result<()> {
        let name = &request.name;
        self.check_name(name)?;
        place::check(&self.tree_of(name, request.base.as_deref()))?;
        check_mounts(&request.mounts)?;
        guest::credentials(&request.credentials).map(drop)
    }
}

/// Resolves what runs to the names that the host has for it, and finds what belongs to it.
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

/// Read-only mounts of what the host has of the programs.
pub(in crate::service) fn program_mounts(service: &Service, workload: &Workload) -> Vec<Mount> {
    let mut mounts = programs_elsewhere(service);
    if let Workload::Command(_) = workload {
        mounts.extend(command::programs_in_srv(service));
    }
    mounts
}

/// Read-only mounts of what the units run from outside of the system's directories, such as `/opt/X`.
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

/// What is `asked` for, and what units of the service ask for and may have unasked.
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

/// Directories of the root that every sandbox has.
const SHOWN: [&str; 17] = [
    "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "var", "home", "root", "srv",
    "run", "tmp", "dev", "proc", "sys",
];

/// Boot-time units of the host's `/usr` that belong to the service.
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

/// Adds the system directories of the host that the sandbox sees.
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
