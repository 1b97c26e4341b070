//! One command in a throw-away sandbox.
//!
//! [`Request`] is what is asked for. It becomes a [plan](Plan) without touching anything, which either driver can
//! show; [`run`] then starts the domain and joins the caller's streams to the command. The domain ends with the
//! connection to libvirt, so the command's status can be given back as soon as it is known, and the clean-up finishes
//! behind it.

mod connection;
mod container;
mod contract;
mod disks;
mod embedded;
mod identity;
mod layout;
mod machine;
mod outcome;
mod reach;
mod security;
mod stage;
mod state;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::channel::wire::Frame;
use guest_init::config::{Addressing, GuestConfig, Identity, Payload};
use uuid::Uuid;

pub use self::identity::{Account, Who};
pub use self::outcome::{OWN_FAILURE, Outcome, Stages};
pub use self::state::{Places, State};
use crate::config::network::Source;
use crate::config::{
    Confinement, Credential, Disk, Hostname, Include, KernelRequest, Mac, Mount, Network, Publish,
    Resources, SandboxName, Security,
};
use crate::console::{Console, Conversation, Ending, Patience, Signals, Stdio};
use crate::domain::qemu::{Authority, Emulation};
use crate::domain::{Domain, OnReboot, SecModel};
pub use crate::driver::connection::{Connection, Driver, Surroundings};
use crate::error::{Error, Result};
use crate::guest;
use crate::host::HostFacts;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::libvirt::Libvirt;
use crate::label;
use crate::label::selinux::Context;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the sandbox; one of its own if absent.
    pub name: Option<SandboxName>,
    /// A directory of the host that is its root, instead of the host's.
    pub root: Option<PathBuf>,
    /// Whether it may change what it sees of its root, for as long as it lives.
    pub volatile: bool,
    /// Who the command runs as.
    pub who: Who,
    /// Added to its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Files of the host that it reads at `$CREDENTIALS_DIRECTORY`.
    pub credentials: Vec<Credential>,
    /// Where it starts: the caller's directory if absent.
    pub directory: Option<PathBuf>,
    /// Host name inside.
    pub hostname: Option<Hostname>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// What is copied into the mounts.
    pub includes: Vec<Include>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// NICs; none means no network but the loopback.
    pub networks: Vec<Network>,
    /// Ports of the sandbox that the host answers on.
    pub publish: Vec<Publish>,
    /// Security label.
    pub security: Option<Security>,
    /// Limits.
    pub resources: Resources,
    /// What holds root back in a container.
    pub confinement: Confinement,
    /// Whether a shell of root's waits on a second console.
    pub shell: bool,
    /// What runs the instructions of a virtual machine, if the user knows better.
    pub emulation: Option<Emulation>,
    /// Whether the command gets a terminal.
    pub terminal: bool,
    /// Whether nobody but the command uses this process's standard input and output. Once the command has them, an end
    /// that it puts to them is seen by whoever is at the other side.
    pub hands_over: bool,
    /// The byte that ends it when typed at a terminal.
    pub escape: Option<u8>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// How long it may take until the command runs; the driver's default if absent.
    pub start_timeout: Option<Duration>,
    /// The kernel of a virtual machine.
    pub kernel: KernelRequest,
    /// Whether the guest shows its steps.
    pub debug: bool,
    /// The command with its arguments.
    pub command: Vec<OsString>,
}

impl Request {
    /// Whether it has disks or filesystems in images, which have one user at a time.
    fn uses_images(&self) -> bool {
        let is_image = |mount: &Mount| matches!(mount, Mount::HostImage { .. });
        !self.disks.is_empty() || self.mounts.iter().any(is_image)
    }
}

/// A sandbox that is ready to be started.
#[derive(Debug)]
pub struct Plan {
    /// The domain, as libvirt takes it.
    pub xml: String,
    /// Its identity.
    pub uuid: Uuid,
    /// What the guest is told.
    pub guest: GuestConfig,
    /// Fresh directories that it is given.
    pub temporary: Vec<PathBuf>,
    /// Whose they are.
    pub owner: Identity,
    /// How the channel gets there.
    pub reach: Reach,
    /// What runs the instructions of a virtual machine.
    pub emulation: Option<Emulation>,
    /// Copies of single files that it is given.
    copies: Vec<Copied>,
    /// Kernel and initramfs that a virtual machine boots from; `None` for a container.
    boot: Option<machine::BootFiles>,
    /// The label of its directory, with SELinux.
    files: Option<Context>,
    /// Block devices that are there for its sake.
    devices: Vec<disks::Attached>,
}

/// A copy of a file of the host, made at the start.
#[derive(Debug)]
struct Copied {
    /// The file.
    source: PathBuf,
    /// The directory of the copy, which has its name.
    directory: PathBuf,
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be started: block devices are made.
    Start,
    /// To be shown.
    Show,
}

/// How the channel to a guest is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It is handed down when the domain starts.
    HandedDown {
        /// The directory that becomes the staging root.
        stage: PathBuf,
        /// Where guest-init writes what it cannot say on the channel.
        log: PathBuf,
    },
    /// The hypervisor makes Unix sockets.
    Sockets {
        /// The channel's.
        channel: PathBuf,
        /// Those of the consoles.
        consoles: Vec<PathBuf>,
        /// The directory of all.
        directory: PathBuf,
    },
}

/// Plans the sandbox of `request` on `connection`, to be started in the directory `state`.
///
/// # Errors
/// Where something is asked for that the driver cannot do or the host does not have.
fn plan(
    request: &Request,
    connection: &Connection,
    (name, uuid): (&SandboxName, Uuid),
    stdio: &Stdio,
    (state, places): (&Path, &Places),
    (purpose, model): (Purpose, Option<SecModel>),
) -> Result<Plan> {
    let facts = HostFacts::probe(Path::new("/"))?;
    let mut domain = domain(request, name, uuid)?;
    let asked = request.security.as_ref();
    let label = match purpose {
        Purpose::Start => {
            let place = (state, places);
            security::give(asked, model, connection.driver, (name, uuid), place)?
        }
        Purpose::Show => security::show(asked, model)?,
    };
    domain.security = label.domain;
    let stdio = stdio.for_guest();
    let mut plan = match connection.driver {
        Driver::Lxc => {
            let purpose = (state, purpose);
            container::plan(request, name, &domain, &facts, stdio, purpose)
        }
        driver @ (Driver::QemuSystem | Driver::QemuSession | Driver::QemuEmbedded) => {
            let places = (state, places);
            machine::plan(request, name, driver, domain, &facts, stdio, places)
        }
    }?;
    if purpose == Purpose::Start {
        give_credentials(&mut plan.guest, &request.credentials)?;
    }
    Ok(Plan {
        files: label.files,
        ..plan
    })
}

/// Reads the credentials of the command, and tells it where they will be.
fn give_credentials(config: &mut GuestConfig, wanted: &[Credential]) -> Result<()> {
    config.credentials = guest::credentials(wanted)?;
    let variable = guest::credentials_variable(&config.credentials);
    if let (Payload::Command(command), Some((name, value))) = (&mut config.payload, variable) {
        command.environment.retain(|(known, _)| *known != *name);
        command.environment.push((name.into(), value.into()));
    }
    Ok(())
}

/// The plan of [`run`], which nothing is made for.
///
/// # Errors
/// As [`run`].
pub fn preview(request: &Request, connection: &Connection, places: &Places) -> Result<Plan> {
    let name = match &request.name {
        Some(name) => name.clone(),
        None => unique_name()?,
    };
    let stdio = Stdio::of_process(request.terminal, connection.driver == Driver::Lxc)?;
    let state = places.runtime.join(name.as_str());
    let places = (state.as_path(), places);
    let identity = (&name, Uuid::new_v4());
    // Nothing else has to be asked of libvirt, which need not run for this.
    let model = match request.security {
        Some(_) => Libvirt::open(&connection.uri)
            .and_then(|hypervisor| hypervisor.capabilities())
            .map_or(None, |capabilities| label::model(&capabilities)),
        None => None,
    };
    let purpose = (Purpose::Show, model);
    plan(request, connection, identity, &stdio, places, purpose)
}

/// What libvirt is told, whatever the driver.
fn domain(request: &Request, name: &SandboxName, uuid: Uuid) -> Result<Domain> {
    let mut networks = request.networks.clone();
    for (index, network) in networks.iter_mut().enumerate() {
        network
            .mac
            .get_or_insert_with(|| Mac::of_sandbox(&uuid, index));
    }
    Ok(Domain {
        name: name.clone(),
        uuid,
        description: format!(
            "virt-sandbox: {}",
            (request.command.first()).map_or_else(String::new, |program| printable(program))
        ),
        resources: request.resources.clone(),
        networks,
        publish: request.publish.clone(),
        security: None,
        disks: vec![],
        devices: vec![],
        consoles: u32::from(request.shell),
        on_reboot: OnReboot::Destroy,
    })
}

/// What XML can carry of it.
fn printable(text: &OsStr) -> String {
    text.to_string_lossy().replace(char::is_control, "?")
}

/// Runs the command to its end, with the streams and the terminal of this process.
///
/// # Errors
/// Where the sandbox cannot be made; nothing is left of it then.
pub fn run(request: &Request, connection: &Connection, places: &Places) -> Result<Outcome> {
    let mut stages = Stages::new();
    let signals = Signals::hold()?;
    places.sweep();
    let name = match &request.name {
        Some(name) => name.clone(),
        None => unique_name()?,
    };
    let stdio = Stdio::of_process(request.terminal, connection.driver == Driver::Lxc)?;
    let uuid = Uuid::new_v4();
    let mut state = places.claim(&name, uuid, &connection.uri)?;
    let connection = &connection.within(state.path());
    let place = (state.path(), places);
    let identity = (&name, uuid);
    let hypervisor = connection.open(&name, state.path(), places)?;
    let capabilities = hypervisor.capabilities()?;
    let model = label::model(&capabilities);
    stages.reach("connect");
    let _profile = Profile(&uuid);
    let purpose = (Purpose::Start, model);
    let mut plan = plan(request, connection, identity, &stdio, place, purpose)?;
    let qemu = match connection.driver.authority() {
        Authority::Root => label::qemu_account(&capabilities),
        Authority::User => None,
    };
    stage::make(&plan, qemu, state.path())?;
    stages.reach("plan");
    prepare_networks(request, &mut plan, &hypervisor)?;
    if let Some(signal) = signals.interrupted() {
        return Ok(outcome::interrupted(signal, stages));
    }

    // One whose driver is in this process does not end with a connection.
    let is_embedded = connection.driver == Driver::QemuEmbedded;
    let _guard = is_embedded.then(|| Guard(&hypervisor, &name));
    let mut contact = reach::start(&plan, &hypervisor, &stdio)?;
    stages.reach("start");
    if request.hands_over {
        stdio.hand_over()?;
    }
    let config =
        serde_json::to_vec(&plan.guest).map_err(Error::step("writing the guest config"))?;
    contact.link.send(&Frame::Config(config));
    let patience = Patience {
        start: request.start_timeout.unwrap_or(plan.start_timeout()),
        run: request.timeout,
    };
    let console = Console::new(contact.link, stdio, request.escape, &signals, patience)?;
    let Conversation {
        ending,
        milestones,
        link,
    } = console.converse()?;
    for (milestone, at) in milestones {
        stages.reach_at(&milestone.name, at);
    }
    stages.reach("end");
    let has_ended_well = matches!(ending, Ending::Exit(_));
    let is_container = connection.driver == Driver::Lxc;
    let is_gone = match &plan.reach {
        Reach::HandedDown { stage, .. } if has_ended_well => {
            let ended = container::end(&hypervisor, &name, stage, link);
            stages.reach("farewell");
            ended.unwrap_or_else(|error| {
                log::debug!("{error}");
                false
            })
        }
        Reach::HandedDown { .. } | Reach::Sockets { .. } => {
            drop(link);
            // A virtual machine ends with the connection.
            has_ended_well && !is_embedded && !is_container
        }
    };
    // A disk or a name can be used again when this returns.
    if !is_gone || request.uses_images() || request.name.is_some() {
        match hypervisor.destroy(name.as_str()) {
            Ok(()) if is_container && !is_gone => crate::host::cgroup::remove(&name),
            Ok(()) => {}
            Err(error) => {
                log::warn!("{error}");
                state.keep();
            }
        }
        stages.reach("destroy");
    }
    // Its user is gone.
    plan.devices.clear();
    let last_words = match has_ended_well {
        true => String::new(),
        false => contact.last_words.read(),
    };
    Ok(outcome::outcome(ending, &last_words, &plan, stages))
}

/// An AppArmor profile, if there is one of this domain, that is gone when this is dropped.
struct Profile<'a>(&'a Uuid);

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        label::apparmor::unload(self.0);
    }
}

/// A domain that has ended when this is dropped.
struct Guard<'a>(&'a Libvirt, &'a SandboxName);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Self(hypervisor, name) = self;
        if let Err(error) = hypervisor.destroy(name.as_str()) {
            log::warn!("{error}");
        }
    }
}

/// Makes sure that the networks are up, and finds addresses that their servers give at once.
fn prepare_networks(request: &Request, plan: &mut Plan, hypervisor: &Libvirt) -> Result<()> {
    let is_container = matches!(plan.reach, Reach::HandedDown { .. });
    for (nic, network) in plan.guest.network.iter_mut().zip(&request.networks) {
        let source = match &network.source {
            Some(Source::Network(name)) => Some(name.as_str()),
            None if is_container => network.container_network(),
            None | Some(Source::Bridge(_) | Source::Direct { .. } | Source::User) => None,
        };
        let Some(source) = source else {
            continue;
        };
        hypervisor.ensure_network(source)?;
        if nic.addressing == Addressing::Dhcp {
            nic.hint = hypervisor.likely_address(source, &plan.uuid)?;
        }
    }
    Ok(())
}

impl Plan {
    /// How long it may take until the command runs, unless said otherwise: an emulated guest on a busy host is slow.
    fn start_timeout(&self) -> Duration {
        Duration::from_secs(match self.emulation {
            None | Some(Emulation::Kvm) => 60,
            Some(Emulation::Tcg) => 180,
        })
    }
}

fn unique_name() -> Result<SandboxName> {
    let id = Uuid::new_v4().simple().to_string();
    format!("sandbox-{}", &id[..12])
        .parse()
        .map_err(Error::step("naming the sandbox"))
}
