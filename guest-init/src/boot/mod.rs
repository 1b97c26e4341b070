//! PID 1: carries out the [plan](crate::boot::plan) and becomes the payload.

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

use anyhow::{Context, Result, bail};
use log::{debug, warn};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{sethostname, syncfs};

use crate::NEW_ROOT;
use crate::boot::caller::Caller;
use crate::boot::handover::{Handover, Told};
use crate::boot::plan::{Step, plan};
use crate::config::{Payload, Platform, Staged};
use crate::machine::{agent, block};
use crate::namespaces::Namespaces;
use crate::namespaces::userns;
use crate::namespaces::userns::Side;
use crate::network::lease_process::Files;
use crate::network::resolv;
use crate::process::confine;
use crate::root::boot_id;
use crate::{machine, process, root};

/// Boots the sandbox. Returns when its command has ended, or on failure, which it has told.
pub fn boot() {
    if machine::is_one() {
        crate::console_log::init(false);
        let mut caller = Caller::Absent;
        let booted = machine_caller(&mut caller);
        if let Err(error) = booted.and_then(|()| carry_out(&mut caller, Told::Nobody)) {
            log::error!("{error:#}");
            caller.fail(&error);
        }
        machine::power_off();
    }
    // Before any file is opened: what was handed down is known by its number.
    let mut caller = Caller::of_container();
    crate::console_log::keep_in_stage();
    crate::console_log::init(false);
    let handover = process::leave_keys().and_then(|()| Handover::begin());
    if let Err(error) = handover
        .map(Told::Host)
        .and_then(|told| carry_out(&mut caller, told))
    {
        log::error!("{error:#}");
        caller.fail(&error);
    }
}

fn machine_caller(caller: &mut Caller) -> Result<()> {
    machine::prepare()?;
    *caller = Caller::of_machine()?;
    Ok(())
}

fn carry_out(caller: &mut Caller, mut told: Told) -> Result<()> {
    let config = caller.config()?;
    crate::console_log::init(config.debug);
    caller.reached("booted");
    // libvirt hands down that of whoever started its daemon, which may lock out all but root.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let begin = Instant::now();
    let mut place = root::Place::assembling(Path::new("/"))?;
    let mut resolv_conf: Option<File> = None;
    let mut images: Vec<File> = Vec::new();
    let mut namespaces: Option<Namespaces> = None;
    let mut groups: Vec<File> = Vec::new();
    let has_units = matches!(config.payload, Payload::Init { .. });
    for step in plan(&config) {
        debug!("{:>6} ms  {step:?}", begin.elapsed().as_millis());
        match step {
            Step::Stage(staged) => {
                block::stage(&staged)?;
                if let Staged::Image { path, .. } = &staged {
                    let doing = || format!("opening '{}'", path.display());
                    images.push(File::open(path).with_context(doing)?);
                }
            }
            Step::Namespaces { ids, nics } => {
                let made = Namespaces::new(ids)?;
                made.enter_network(&nics)?;
                let namespace = made.user.try_clone().context("copying a file descriptor")?;
                place = place.with(root::Mapping { namespace, ids });
                userns::raise_limits();
                userns::make_for(ids)?;
                namespaces = Some(made);
            }
            Step::NewRoot { root, targets } => root::new_root(&mut place, &root, &targets)?,
            Step::Mount(mount) => root::add(&place, &mount)?,
            Step::Move(path) => root::carry_over(&place, &path)?,
            Step::OwnSys => root::own_sys(&place)?,
            Step::Cgroup { name, max_pids } => {
                let owner = config.idmap.map(|ids| ids.first);
                groups = userns::make_for_host(config.idmap, || {
                    cgroup::enter(Path::new(NEW_ROOT), &name, max_pids, owner, has_units)
                })?;
            }
            Step::GiveDevices(ids) => root::give_devices(ids)?,
            Step::Device(device) => root::allow_device(&device, config.idmap)?,
            Step::Enter => place = root::enter(place)?,
            Step::LinkDisks { disks, owner } => {
                let on_host = |id| config.idmap.map_or(Some(id), |ids| ids.on_host(id));
                block::link_disks(&disks, owner.and_then(on_host))?;
            }
            Step::OwnResolvConf => {
                let file = root::own_file(&place, Path::new(resolv::RESOLV_CONF))?;
                resolv_conf = Some(file);
            }
            Step::Include(include) => root::include(&place, &include)?,
            Step::Pivot(platform) => {
                place = root::pivot(place, platform)?;
                root::drop_unseekable_meminfo();
                caller.reached("root");
            }
            Step::Descend => {
                let namespaces = namespaces.take().context("there are no namespaces")?;
                match userns::descend(&namespaces, &groups, &config.confinement, has_units)? {
                    Side::Above { first, who, ready } => {
                        // Streams end when nobody has them any more.
                        *caller = Caller::Absent;
                        userns::attend(first, || {
                            if let Told::Host(handover) = told {
                                handover.publish_when(ready, who);
                            }
                        });
                    }
                    // The record is the host's.
                    Side::Below { ready } => {
                        told = Told::Above(ready);
                        groups.clear();
                    }
                }
            }
            Step::MaskKernel => root::mask_kernel(&config.confinement)?,
            Step::Confine => confine::confine(&config.confinement)?,
            Step::File(file) => root::write(&file)?,
            Step::Credentials { credentials, owner } => {
                crate::boot::credentials::write(&credentials, owner)?;
            }
            Step::MaskStaticUnits { keep } => {
                for link in static_units::mask(Path::new("/"), &keep)? {
                    debug!("masked '{}'", link.display());
                }
            }
            Step::Hostname(name) => {
                // libvirt sets it too; not being allowed to (a user namespace) is no reason to stop.
                if let Err(error) = sethostname(&name) {
                    warn!("setting the host name: {error}");
                }
            }
            Step::Network(nics) => {
                let files = (resolv_conf.as_ref()).map_or_else(Files::lasting, Files::passing);
                crate::network::lease_process::start(&nics, &config.hostname, &files)?;
                caller.reached("network");
            }
            Step::BootId => {
                if let Err(error) = boot_id::own() {
                    warn!("giving the sandbox a boot id of its own: {error:#}");
                }
            }
            Step::ShareMounts => root::share_mounts()?,
            Step::LowPorts => crate::network::allow_low_ports(),
            Step::Kernel { max_threads } => {
                machine::tune(max_threads);
                static_units::mask_generators(Path::new("/"))?;
            }
            Step::Agent(ways) => agent::start(ways)?,
            Step::Shell(device) => shell::keep(&device)?,
            Step::Exec {
                command,
                environment,
            } => {
                process::end_with_parent();
                told.booted()?;
                match process::exec(&command, &environment)? {}
            }
            Step::Run(command) => {
                process::end_with_parent();
                told.booted()?;
                // Who wants to know all of a machine looks at its console.
                if !(config.debug && config.platform == Platform::Machine) {
                    caller.pass_on_log();
                }
                return caller.run(&command, || match config.platform {
                    Platform::Container => images.iter().for_each(sync_filesystem),
                    Platform::Machine => {
                        // The host may end the machine as soon as it knows how the command ended.
                        drop(images);
                        machine::settle();
                    }
                });
            }
        }
    }
    bail!("the plan has no payload")
}

/// Writes what a filesystem holds back. In a container it may not be made read-only: the kernel is the host's.
fn sync_filesystem(image: &File) {
    if let Err(error) = syncfs(image) {
        warn!("writing back an image: {error}");
    }
}
