//! PID 1: carries out the [`plan`](mod@plan) and becomes the payload.

mod caller;
mod cgroup;
mod credentials;
mod handover;
pub mod plan;
mod shell;
mod static_units;

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use log::{debug, warn};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{sethostname, syncfs};

use crate::boot::caller::Caller;
use crate::boot::handover::{Handover, Report};
use crate::boot::plan::{Step, plan};
use crate::config::{Command, Disk, GuestConfig, IdMap, Nic, Payload, Platform, Staged};
use crate::machine::{agent, block};
use crate::namespaces::Namespaces;
use crate::namespaces::userns::{self, Fork};
use crate::network::lease_process::{self, Files};
use crate::network::{self, resolv};
use crate::power::initctl;
use crate::process::{confine, leave_keys, payload};
use crate::root::{Place, boot_id};
use crate::session::Group;
use crate::{NEW_ROOT, console_log, machine, process, root};

/// Boots the sandbox. Returns when its command has ended, or after a failure, which it has reported.
pub fn boot() {
    if machine::is_machine() {
        console_log::init(false);
        let mut caller = Caller::Absent;
        report_failure(boot_machine(&mut caller), &mut caller);
        machine::power_off();
    }
    // Before any file is opened: inherited files are known by their numbers.
    let mut caller = Caller::of_container();
    console_log::keep_in_stage();
    console_log::init(false);
    report_failure(boot_container(&mut caller), &mut caller);
}

fn boot_machine(caller: &mut Caller) -> Result<()> {
    machine::prepare()?;
    *caller = Caller::of_machine()?;
    carry_out(caller, Report::None)
}

fn boot_container(caller: &mut Caller) -> Result<()> {
    leave_keys()?;
    let handover = Handover::begin()?;
    carry_out(caller, Report::Host(handover))
}

fn report_failure(outcome: Result<()>, caller: &mut Caller) {
    if let Err(error) = outcome {
        log::error!("{error:#}");
        caller.fail(&error);
    }
}

fn carry_out(caller: &mut Caller, report: Report) -> Result<()> {
    let config = caller.config()?;
    console_log::init(config.debug);
    caller.send_milestone("booted");
    // libvirt passes on the mask of whoever started its daemon, which may lock out all but root.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let begin = Instant::now();
    let mut boot = Boot {
        config: &config,
        caller,
        report,
        place: Place::assembling(Path::new("/"))?,
        resolv_conf: None,
        images: vec![],
        namespaces: None,
        command_group: Group::Own,
        original_cgroups: vec![],
    };
    for step in plan(&config) {
        debug!("{:>6} ms  {step:?}", begin.elapsed().as_millis());
        boot.carry_out(step)?;
    }
    Ok(())
}

/// State of the boot between two steps.
struct Boot<'a> {
    config: &'a GuestConfig,
    caller: &'a mut Caller,
    report: Report,
    place: Place,
    /// The sandbox's own `/etc/resolv.conf`, laid over that of its tree.
    resolv_conf: Option<File>,
    /// Roots of mounted images, to write them back at the end.
    images: Vec<File>,
    /// Namespaces that the first process of the sandbox enters.
    namespaces: Option<Namespaces>,
    /// Cgroup of a command.
    command_group: Group,
    /// Files that move a process back to the cgroups it was started in.
    original_cgroups: Vec<File>,
}

impl Boot<'_> {
    fn carry_out(&mut self, step: Step) -> Result<()> {
        let (config, place) = (self.config, &mut self.place);
        match step {
            Step::Stage(staged) => self.stage(&staged),
            Step::Namespaces { ids, nics } => self.make_namespaces(ids, &nics),
            Step::NewRoot { root, targets } => root::new_root(place, &root, &targets),
            Step::Mount(mount) => root::add(place, &mount),
            Step::Move(path) => root::move_mount(place, &path),
            Step::MountSys => root::mount_sys(place),
            Step::Cgroup { name, max_pids } => self.enter_cgroup(&name, max_pids),
            Step::AssignDevices(ids) => root::assign_devices(ids),
            Step::Device(device) => root::set_device_access(&device, config.idmap),
            Step::Enter => root::enter(place),
            Step::LinkDisks { disks, owner } => self.link_disks(&disks, owner),
            Step::OwnResolvConf => {
                let file = root::overlay_file(place, Path::new(resolv::RESOLV_CONF))?;
                self.resolv_conf = Some(file);
                Ok(())
            }
            Step::Include(include) => root::include(place, &include),
            Step::Pivot(platform) => {
                root::pivot(place, platform)?;
                root::drop_unseekable_meminfo();
                self.caller.send_milestone("root");
                Ok(())
            }
            Step::ForkInto => self.fork_into_namespaces(),
            Step::MaskKernel => root::mask_kernel(&config.confinement),
            Step::Confine => confine::confine(&config.confinement),
            Step::File(file) => root::write(&file),
            Step::Credentials { credentials, owner } => credentials::write(&credentials, owner),
            Step::MaskStaticUnits { keep } => mask_static_units(&keep),
            Step::Hostname(name) => {
                // libvirt sets it too. A user namespace may not allow it, which is no reason to stop.
                if let Err(error) = sethostname(&name) {
                    warn!("setting the host name: {error}");
                }
                Ok(())
            }
            Step::Network(nics) => self.start_network(&nics),
            Step::BootId => {
                if let Err(error) = boot_id::replace() {
                    warn!("giving the sandbox a boot id of its own: {error:#}");
                }
                Ok(())
            }
            Step::ShareMounts => root::share_mounts(),
            Step::LowPorts => {
                network::allow_low_ports();
                Ok(())
            }
            Step::Kernel => {
                machine::tune();
                Ok(())
            }
            Step::Agent(ports) => agent::start(ports),
            Step::Initctl { is_served } => {
                // Everything else of the sandbox works without.
                if let Err(error) = initctl::make(is_served) {
                    warn!("{error:#}");
                }
                Ok(())
            }
            Step::Shell(device) => shell::keep(&device),
            Step::PayloadGroup { max_pids, enter } => self.limit_payload(max_pids, enter),
            Step::Exec {
                command,
                environment,
            } => self.exec(&command, &environment),
            Step::Run(command) => self.run(&command),
        }
    }

    fn stage(&mut self, staged: &Staged) -> Result<()> {
        block::stage(staged)?;
        if let Staged::Image { path, .. } = staged {
            let doing = || format!("opening '{}'", path.display());
            self.images.push(File::open(path).with_context(doing)?);
        }
        Ok(())
    }

    fn make_namespaces(&mut self, ids: IdMap, nics: &[String]) -> Result<()> {
        let namespaces = Namespaces::new(ids)?;
        namespaces.enter_network(nics)?;
        let user = (namespaces.user.try_clone()).context("copying a file descriptor")?;
        self.place.map_owners(root::Mapping {
            namespace: user,
            ids,
        });
        userns::raise_limits();
        userns::act_as_root_of(ids)?;
        self.namespaces = Some(namespaces);
        Ok(())
    }

    fn enter_cgroup(&mut self, name: &str, max_pids: Option<u64>) -> Result<()> {
        let owner = self.config.idmap.map(|ids| ids.first);
        self.original_cgroups = userns::as_host(self.config.idmap, || {
            cgroup::enter(Path::new(NEW_ROOT), name, max_pids, owner, self.has_units())
        })?;
        Ok(())
    }

    fn link_disks(&self, disks: &[Disk], owner: Option<u32>) -> Result<()> {
        let on_host = |id| self.config.idmap.map_or(Some(id), |ids| ids.on_host(id));
        block::link_disks(disks, owner.and_then(on_host))
    }

    /// Goes on in the first process of the sandbox. The process that is left waits for it and never returns.
    fn fork_into_namespaces(&mut self) -> Result<()> {
        let namespaces = self.namespaces.take().context("there are no namespaces")?;
        let confinement = &self.config.confinement;
        match userns::fork_into(
            &namespaces,
            &self.original_cgroups,
            confinement,
            self.has_units(),
        )? {
            Fork::Parent {
                first,
                identity,
                ready,
            } => {
                // A stream ends once no process holds it any more.
                *self.caller = Caller::Absent;
                let report = std::mem::replace(&mut self.report, Report::None);
                userns::reap(first, self.has_units(), || {
                    if let Report::Host(handover) = report {
                        handover.publish_when(ready, identity);
                    }
                })
            }
            // The parent alone writes the record of the host.
            Fork::Child { ready } => {
                self.report = Report::Parent(ready);
                self.original_cgroups.clear();
                Ok(())
            }
        }
    }

    fn start_network(&mut self, nics: &[Nic]) -> Result<()> {
        let files = (self.resolv_conf.as_ref()).map_or_else(Files::persistent, Files::volatile);
        lease_process::start(nics, &self.config.hostname, &files)?;
        self.caller.send_milestone("network");
        Ok(())
    }

    fn limit_payload(&mut self, max_pids: u64, enter: bool) -> Result<()> {
        let is_limited = payload::make(max_pids)?;
        if is_limited && enter {
            payload::enter()?;
        }
        self.command_group = match is_limited {
            true => Group::Payload,
            false => Group::Own,
        };
        Ok(())
    }

    fn exec(&mut self, command: &[String], environment: &[(String, String)]) -> Result<()> {
        self.report_boot()?;
        match process::exec(command, environment)? {}
    }

    fn run(&mut self, command: &Command) -> Result<()> {
        self.report_boot()?;
        // With debug output a machine shows all of its log on its console.
        if !(self.config.debug && self.config.platform == Platform::Machine) {
            self.caller.send_log();
        }
        let images = std::mem::take(&mut self.images);
        let group = self.command_group;
        self.caller
            .run(command, group, || match self.config.platform {
                Platform::Container => images.iter().for_each(sync_filesystem),
                Platform::Machine => {
                    // The host may end the machine as soon as it knows how the command ended.
                    drop(images);
                    machine::sync_filesystems();
                }
            })
    }

    fn report_boot(&mut self) -> Result<()> {
        process::end_with_parent();
        std::mem::replace(&mut self.report, Report::None).send()
    }

    fn has_units(&self) -> bool {
        matches!(self.config.payload, Payload::Init { .. })
    }
}

fn mask_static_units(keep: &[String]) -> Result<()> {
    static_units::mask_generators(Path::new("/"))?;
    for link in static_units::mask(Path::new("/"), keep)? {
        debug!("masked '{}'", link.display());
    }
    Ok(())
}

/// Writes back a filesystem. In a container it cannot be made read-only: it belongs to the host's kernel.
fn sync_filesystem(image: &File) {
    if let Err(error) = syncfs(image) {
        warn!("writing back an image: {error}");
    }
}
