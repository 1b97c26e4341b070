//! From a request to a sandbox that can be started.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::config::{Command, Directory, Identity, Payload, Stdio as GuestStdio};
use uuid::Uuid;

use crate::config::{Confinement, Hostname, Mac, SandboxName};
use crate::domain::qemu::Emulation;
use crate::domain::template;
use crate::domain::{Domain, OnReboot};
use crate::driver::disks::{self, Attached};
use crate::driver::{Boot, BuildContext, Driver, Sockets, Spec};
use crate::error::Result;
use crate::guest::ids::Registry;
use crate::guest::layout::Layout;
use crate::guest::{self, find_init};
use crate::host::{HostFacts, Inventory};
use crate::label::selinux::Context;
use crate::run::channel::ChannelKind;
use crate::run::identity::{Account, idmap_for};
use crate::run::layout::layout;
use crate::run::{Planning, Purpose, Request, security};

/// A sandbox that is ready to be started.
#[derive(Debug)]
pub struct Plan {
    /// Documents, and the files that it boots from.
    pub boot: Boot,
    /// Identity of the domain.
    pub uuid: Uuid,
    /// Fresh directories that it is given.
    pub temporary: Vec<PathBuf>,
    /// Owner of the fresh directories.
    pub owner: Identity,
    /// Kind of channel to the guest.
    pub channel: ChannelKind,
    /// Label of its directory, with SELinux.
    pub(super) files: Option<Context>,
    /// Block devices that are attached for it.
    pub(super) devices: Vec<Attached>,
}

impl Plan {
    /// Returns what runs the instructions of a virtual machine; `None` for a container.
    #[must_use]
    pub fn emulation(&self) -> Option<Emulation> {
        self.boot.machine.as_ref().map(|machine| machine.emulation)
    }

    /// Returns the time until the command runs, unless the user chose another: an emulated guest on a busy host is slow.
    pub(super) fn start_timeout(&self) -> Duration {
        Duration::from_secs(match self.emulation() {
            None | Some(Emulation::Kvm) => 60,
            Some(Emulation::Tcg) => 180,
        })
    }
}

impl Planning<'_> {
    /// Plans the sandbox.
    ///
    /// # Errors
    /// Where the driver cannot do what the request asks for, or the host does not have it.
    pub fn plan(&self) -> Result<Plan> {
        let root = Path::new("/");
        Inventory::probe(root).check(&self.request.resources, &self.request.networks)?;
        let facts = HostFacts::probe(root)?;
        let driver = self.connection.driver;
        let account = Account::find(&self.request.who)?;
        let label = security::label(self)?;
        let layout = layout(self.request, driver, self.state)?;
        let devices = match (driver, self.purpose) {
            (Driver::Lxc, Purpose::Start) => disks::attach(&layout)?,
            (Driver::Lxc, Purpose::Show) => disks::pretend(&layout),
            (Driver::Qemu(_), _) => vec![],
        };
        let confinement = Confinement {
            idmap: match driver {
                Driver::Lxc => idmap_for(self.request.confinement.idmap, &account)?,
                Driver::Qemu(_) => self.request.confinement.idmap,
            },
            ..self.request.confinement.clone()
        };
        let temporary = layout.temporary.clone();
        let hostname = hostname(self.request, self.name);
        let mut spec = spec(self, &account, layout, &hostname, &confinement)?;
        spec.domain.security = label.domain;
        let services = Path::new(guest::SERVICES);
        let (stage, channel) = channel(driver, self.state, self.request.debug);
        let context = BuildContext {
            facts: &facts,
            init: &find_init()?,
            stage: &stage,
            record: self.state,
            registry: &Registry::of(&[services, Path::new(guest::RUNTIME)]),
            has_boot_files: true,
            claims_ids: self.purpose == Purpose::Start,
            devices: devices.iter().map(|device| device.device.clone()).collect(),
            templates: Path::new(template::OVERRIDES),
            cache: &self.places.cache,
        };
        Ok(Plan {
            boot: driver.build(&spec, &context)?,
            uuid: self.uuid,
            temporary,
            owner: account.identity,
            channel,
            files: label.files,
            devices,
        })
    }
}

/// Returns the directory that a sandbox in `state` is staged in, and how its channel is made.
pub(super) fn channel(driver: Driver, state: &Path, debug: bool) -> (PathBuf, ChannelKind) {
    match driver {
        Driver::Lxc => {
            let stage = state.join("stage");
            let log = stage.join("guest.log");
            (stage.clone(), ChannelKind::Inherited { stage, log })
        }
        Driver::Qemu(_) => {
            let sockets = Sockets::below(state, debug);
            (state.to_owned(), ChannelKind::Sockets(sockets))
        }
    }
}

/// Returns the host name inside: the one that the user chose, or one after the name of the sandbox.
pub(super) fn hostname(request: &Request, name: &SandboxName) -> String {
    match &request.hostname {
        Some(hostname) => hostname.to_string(),
        None => Hostname::of(name).to_string(),
    }
}

/// Returns the specification of the sandbox, without its label.
pub(super) fn spec<'a>(
    planning: &Planning<'a>,
    account: &Account,
    layout: Layout,
    hostname: &'a str,
    confinement: &'a Confinement,
) -> Result<Spec<'a>> {
    let request = planning.request;
    let credentials = match planning.purpose {
        Purpose::Start => guest::credentials(&request.credentials)?,
        Purpose::Show => vec![],
    };
    let mut command = command(planning, account);
    if let Some((name, value)) = guest::credentials_variable(&credentials) {
        command.environment.retain(|(known, _)| *known != *name);
        command.environment.push((name.into(), value.into()));
    }
    Ok(Spec {
        domain: domain(request, planning.name, planning.uuid),
        layout,
        hostname,
        debug: request.debug,
        confinement,
        kernel: &request.kernel,
        emulation: request.emulation,
        nics: guest::nics(&request.networks),
        files: vec![],
        credentials,
        static_units: None,
        payload: Payload::Command(command),
    })
}

/// Returns the command as the guest runs it.
fn command(planning: &Planning<'_>, account: &Account) -> Command {
    let request = planning.request;
    let stdio = planning.stdio.clone();
    let terminal = matches!(stdio, GuestStdio::Terminal(_));
    let container = planning.connection.driver.container();
    Command {
        argv: request.command.clone(),
        environment: account.environment(terminal, container, &request.environment),
        directory: match &request.directory {
            Some(directory) => Directory::Must(directory.clone()),
            None => {
                Directory::Try(std::env::current_dir().unwrap_or_else(|_| account.home.clone()))
            }
        },
        identity: account.identity.clone(),
        stdio,
    }
}

/// Returns the domain, without what its driver and its label add.
fn domain(request: &Request, name: &SandboxName, uuid: Uuid) -> Domain {
    let mut networks = request.networks.clone();
    for (index, network) in networks.iter_mut().enumerate() {
        network
            .mac
            .get_or_insert_with(|| Mac::of_sandbox(&uuid, index));
    }
    let program = request.command.first();
    Domain {
        name: name.clone(),
        uuid,
        description: format!(
            "virt-sandbox: {}",
            program.map_or_else(String::new, |program| printable(program))
        ),
        resources: request.resources.clone(),
        networks,
        publish: request.publish.clone(),
        security: None,
        disks: vec![],
        devices: vec![],
        consoles: u32::from(request.shell),
        on_reboot: OnReboot::Destroy,
    }
}

/// Replaces the characters that XML cannot carry.
fn printable(text: &OsStr) -> String {
    text.to_string_lossy().replace(char::is_control, "?")
}
