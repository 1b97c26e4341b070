//! One command in a throw-away sandbox.
//!
//! A [`Request`] becomes a [`Plan`], which can be [shown](preview) without touching anything. [`run`] starts its domain and joins the
//! caller's streams to the command. The domain ends with the connection to libvirt, so the command's status is returned as soon as
//! it is known, and libvirt cleans up afterwards.

mod channel;
mod connection;
mod embedded;
mod end;
mod identity;
mod layout;
mod leftovers;
mod outcome;
mod plan;
mod security;
mod stage;
mod state;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_init::channel::wire::Frame;
use guest_init::config::{Addressing, Stdio as GuestStdio};
use uuid::Uuid;

use self::channel::ChannelKind;
pub use self::identity::{Account, Who};
pub use self::outcome::{OWN_FAILURE, Outcome, Timeline};
pub use self::plan::Plan;
pub use self::state::{Places, State};
use crate::config::network::Source;
use crate::config::{
    Confinement, Credential, Disk, Hostname, Include, KernelRequest, Mount, Network, Publish,
    Resources, SandboxName, Security,
};
use crate::console::{Console, Session, SessionEnd, Signals, Stdio, Timeouts};
use crate::domain::SecModel;
use crate::domain::qemu::{Authority, Emulation};
pub use crate::driver::connection::{Connection, Environment};
pub use crate::driver::{Driver, Qemu};
use crate::error::{Error, Result};
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{DomainState, Hypervisor};
use crate::label;

/// Options of a one-shot sandbox, as parsed from the command line or set by a library user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the sandbox; a new one if absent.
    pub name: Option<SandboxName>,
    /// A directory of the host that is its root, instead of the host's.
    pub root: Option<PathBuf>,
    /// Whether it may change its root, with changes that are thrown away.
    pub volatile: bool,
    /// User that the command runs as.
    pub who: Who,
    /// Variables that are added to its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Files of the host that it reads at `$CREDENTIALS_DIRECTORY`.
    pub credentials: Vec<Credential>,
    /// Directory that it starts in; the caller's if absent.
    pub directory: Option<PathBuf>,
    /// Host name inside.
    pub hostname: Option<Hostname>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Copies into the mounts.
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
    /// Confinement of root in a container.
    pub confinement: Confinement,
    /// Whether a root shell waits on a second console.
    pub shell: bool,
    /// Emulation of a virtual machine; chosen by the host's facts if absent.
    pub emulation: Option<Emulation>,
    /// Whether the command gets a terminal.
    pub terminal: bool,
    /// Whether only the command uses this process's standard input and output. Once the command has them, the other side sees when
    /// it closes them.
    pub hands_over: bool,
    /// Byte that ends the sandbox when it is typed at a terminal.
    pub escape: Option<u8>,
    /// Time that it may run.
    pub timeout: Option<Duration>,
    /// Time that it may take until the command runs; the driver's default if absent.
    pub start_timeout: Option<Duration>,
    /// The kernel of a virtual machine.
    pub kernel: KernelRequest,
    /// Whether the guest shows its steps.
    pub debug: bool,
    /// The command with its arguments.
    pub command: Vec<OsString>,
}

impl Request {
    /// Returns whether it has disks or filesystems in images, which have one user at a time.
    fn uses_images(&self) -> bool {
        let is_image = |mount: &Mount| matches!(mount, Mount::HostImage { .. });
        !self.disks.is_empty() || self.mounts.iter().any(is_image)
    }
}

/// Purpose of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be started: ids are claimed, block devices are attached and credentials are read.
    Start,
    /// To be shown.
    Show,
}

/// Inputs of a plan.
#[derive(Debug)]
struct Planning<'a> {
    request: &'a Request,
    connection: &'a Connection,
    name: &'a SandboxName,
    uuid: Uuid,
    /// Standard streams of the command.
    stdio: &'a GuestStdio,
    /// Directory of the sandbox.
    state: &'a Path,
    places: &'a Places,
    purpose: Purpose,
    /// Security model of libvirt.
    model: Option<SecModel>,
}

/// Plans the sandbox of [`run`] without making anything for it.
pub fn preview(request: &Request, connection: &Connection, places: &Places) -> Result<Plan> {
    let name = &name(request)?;
    let stdio = Stdio::of_process(request.terminal, connection.driver == Driver::Lxc)?;
    // libvirt need not run for this.
    let model = match request.security {
        Some(_) => Libvirt::open(&connection.uri)
            .and_then(|hypervisor| hypervisor.capabilities())
            .map_or(None, |capabilities| label::model(&capabilities)),
        None => None,
    };
    let planning = Planning {
        request,
        connection,
        name,
        uuid: Uuid::new_v4(),
        stdio: &stdio.for_guest(),
        state: &places.runtime.join(name.as_str()),
        places,
        purpose: Purpose::Show,
        model,
    };
    planning.plan()
}

/// Runs the command to its end, with the streams and the terminal of this process.
///
/// # Errors
/// Where the sandbox cannot be made; nothing is left of it then.
pub fn run(request: &Request, connection: &Connection, places: &Places) -> Result<Outcome> {
    let mut stages = Timeline::new();
    let signals = Signals::hold()?;
    places.sweep();

    // 1. Claim the name, and connect.
    let name = &name(request)?;
    let stdio = Stdio::of_process(request.terminal, connection.driver == Driver::Lxc)?;
    let uuid = Uuid::new_v4();
    let mut state = places.claim(name, uuid, &connection.uri)?;
    let connection = &connection.within(state.path());
    let hypervisor = connection.open(name, state.path(), places)?;
    let capabilities = hypervisor.capabilities()?;
    stages.reach("connect");

    // 2. Plan the sandbox, and make its files.
    let _profile = Profile(&uuid);
    let planning = Planning {
        request,
        connection,
        name,
        uuid,
        stdio: &stdio.for_guest(),
        state: state.path(),
        places,
        purpose: Purpose::Start,
        model: label::model(&capabilities),
    };
    let mut plan = planning.plan()?;
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

    // 3. Start the domain, and tell the guest its config.
    // A domain whose driver is in this process does not end with a connection.
    let is_embedded = connection.driver == Driver::Qemu(Qemu::Embedded);
    let _guard = is_embedded.then(|| DestroyOnDrop(&hypervisor, name));
    let mut guest = channel::start(&plan, &hypervisor, &stdio).inspect_err(|_| {
        // The name may be that of another domain.
        if hypervisor.state(name.as_str()).ok() == Some(DomainState::Missing) {
            leftovers::remove(&connection.uri, name, true);
        }
    })?;
    stages.reach("start");
    if request.hands_over {
        stdio.hand_over()?;
    }
    let config = serde_json::to_vec(&plan.boot.guest);
    let config = config.map_err(Error::step("writing the guest config"))?;
    guest.link.send(&Frame::Config(config));

    // 4. Join the streams until the command ends.
    let timeouts = Timeouts {
        start: request.start_timeout.unwrap_or(plan.start_timeout()),
        run: request.timeout,
    };
    let console = Console::new(guest.link, stdio, request.escape, &signals, timeouts)?;
    let Session {
        end,
        milestones,
        link,
    } = console.run()?;
    for (milestone, at) in milestones {
        stages.reach_at(&milestone.name, at);
    }
    stages.reach("end");

    // 5. End the domain.
    let has_ended_well = matches!(end, SessionEnd::Exit(_));
    let is_gone = match &plan.channel {
        ChannelKind::Inherited { stage, .. } if has_ended_well => {
            let ended = end::end_container(&hypervisor, name, stage, link);
            stages.reach("farewell");
            ended.unwrap_or_else(|error| {
                log::debug!("{error}");
                false
            })
        }
        ChannelKind::Inherited { .. } => {
            drop(link);
            false
        }
        ChannelKind::Sockets(_) => {
            drop(link);
            // A virtual machine of a daemon ends with the connection.
            has_ended_well && !is_embedded
        }
    };
    let is_container = connection.driver == Driver::Lxc;
    let mut is_destroyed = false;
    // A disk or a name can be used again when this returns.
    if !is_gone || request.uses_images() || request.name.is_some() {
        match hypervisor.destroy(name.as_str()) {
            Ok(()) => {
                is_destroyed = true;
                if is_container && !is_gone {
                    crate::host::cgroup::remove(name);
                }
            }
            Err(error) => {
                log::warn!("{error}");
                state.keep();
            }
        }
        stages.reach("destroy");
    }
    if is_container && (is_gone || is_destroyed) {
        leftovers::remove(&connection.uri, name, !has_ended_well);
    }
    // The domain that used them is gone.
    plan.devices.clear();
    let output = match has_ended_well {
        true => String::new(),
        false => guest.output.read(),
    };
    Ok(outcome::outcome(end, &output, &plan, stages))
}

/// Unloads the AppArmor profile of a domain on drop, if there is one.
struct Profile<'a>(&'a Uuid);

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        label::apparmor::unload(self.0);
    }
}

/// Destroys a domain on drop.
struct DestroyOnDrop<'a>(&'a Libvirt, &'a SandboxName);

impl Drop for DestroyOnDrop<'_> {
    fn drop(&mut self) {
        let Self(hypervisor, name) = self;
        if let Err(error) = hypervisor.destroy(name.as_str()) {
            log::warn!("{error}");
        }
    }
}

/// Starts the networks that are down, and tells the guest the addresses that their servers are likely to give.
fn prepare_networks(request: &Request, plan: &mut Plan, hypervisor: &Libvirt) -> Result<()> {
    let is_container = plan.boot.machine.is_none();
    for (nic, network) in plan.boot.guest.network.iter_mut().zip(&request.networks) {
        if let Some(filter) = &network.filter {
            hypervisor.check_filter(&filter.name)?;
        }
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

/// Returns the name of the sandbox: the one that the user chose, or a new one.
fn name(request: &Request) -> Result<SandboxName> {
    if let Some(name) = &request.name {
        return Ok(name.clone());
    }
    let id = Uuid::new_v4().simple().to_string();
    format!("sandbox-{}", &id[..12])
        .parse()
        .map_err(Error::step("naming the sandbox"))
}

#[cfg(test)]
mod tests;
