//! PID 1: carries out the [plan](crate::plan) and becomes the payload.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use log::{debug, warn};
use nix::sys::stat::{Mode, umask};
use nix::unistd::sethostname;

use crate::NEW_ROOT;
use crate::config::{GuestConfig, VERSION};
use crate::keeper::Files;
use crate::milestones::Milestones;
use crate::plan::{Step, plan};
use crate::wire::{Exit, Frame};
use crate::{block, cgroup, machine, process, resolv, root, shell, static_units};

/// Where the host puts the config, in the staging root.
pub const CONFIG_PATH: &str = "/guest.json";

/// Boots the sandbox. Returns only on failure, which it has logged.
pub fn boot() {
    let is_machine = machine::is_one();
    if !is_machine {
        crate::console_log::keep_in_stage();
    }
    crate::console_log::init(false);
    let mut channel = None;
    let Err(error) = run(is_machine, &mut channel);
    log::error!("{error:#}");
    if is_machine {
        if let Some(mut channel) = channel {
            let reason = format!("{error:#}");
            let mut bytes = Vec::new();
            Frame::Exit(Exit::Failed { reason }).write(&mut bytes);
            let _ = channel.write_all(&bytes);
        }
        machine::power_off();
    }
}

fn run(is_machine: bool, channel: &mut Option<File>) -> Result<std::convert::Infallible> {
    // libvirt hands down that of whoever started its daemon, which may lock out all but root.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let mut milestones = match is_machine {
        true => Milestones::of_machine(),
        false => Milestones::of_container(),
    };
    let config = if is_machine {
        machine::prepare()?;
        let text = machine::first_frame(channel.insert(machine::channel()?))?;
        parse(&text).context("reading the config")?
    } else {
        read(Path::new(CONFIG_PATH))?
    };
    crate::console_log::init(config.debug);
    milestones.reach("booted");
    let begin = Instant::now();
    let mut place = root::Place::assembling(Path::new("/"))?;
    let mut resolv_conf: Option<File> = None;
    for step in plan(&config) {
        debug!("{:>6} ms  {step:?}", begin.elapsed().as_millis());
        match step {
            Step::Stage(staged) => block::stage(&staged)?,
            Step::NewRoot { root, targets } => root::new_root(&mut place, &root, &targets)?,
            Step::Mount(mount) => root::add(&place, &mount)?,
            Step::Move(path) => root::carry_over(&place, &path)?,
            Step::Cgroup { name, max_pids } => cgroup::enter(Path::new(NEW_ROOT), &name, max_pids)?,
            Step::Enter => place = root::enter(place)?,
            Step::LinkDisks { disks, owner } => block::link_disks(&disks, owner)?,
            Step::OwnResolvConf => {
                let file = root::own_file(&place, Path::new(resolv::RESOLV_CONF))?;
                resolv_conf = Some(file);
            }
            Step::Mask(path) => root::mask(&place, &path)?,
            Step::Include(include) => root::include(&place, &include)?,
            Step::Pivot(platform) => {
                place = root::pivot(place, platform)?;
                root::drop_unseekable_meminfo();
                milestones.reach("root");
            }
            Step::File(file) => root::write(&file)?,
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
                crate::keeper::start(&nics, &config.hostname, &files)?;
                milestones.reach("network");
            }
            Step::Shell(device) => shell::keep(&device)?,
            Step::Exec {
                command,
                environment,
            } => return Ok(process::exec(&command, &environment)?),
            Step::Run(_) => bail!("this cannot be run yet"),
        }
    }
    bail!("the plan has no payload")
}

fn read(path: &Path) -> Result<GuestConfig> {
    let doing = || format!("reading '{}'", path.display());
    parse(&fs::read(path).with_context(doing)?).with_context(doing)
}

fn parse(text: &[u8]) -> Result<GuestConfig> {
    let config: GuestConfig = serde_json::from_slice(text)?;
    if config.version != VERSION {
        bail!(
            "version {} of the guest config, but this init speaks {VERSION}",
            config.version
        );
    }
    Ok(config)
}
