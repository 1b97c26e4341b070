//! PID 1: carries out the [plan](crate::plan) and becomes the payload.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use log::{debug, warn};
use nix::sys::stat::{Mode, umask};
use nix::unistd::sethostname;

use crate::NEW_ROOT;
use crate::caller::Caller;
use crate::plan::{Step, plan};
use crate::{cgroup, process, root, static_units};

/// Boots the sandbox. Returns when its command has ended, or on failure, which it has told.
pub fn boot() {
    // Before any file is opened: what was handed down is known by its number.
    let mut caller = Caller::of_container();
    crate::console_log::keep_in_stage();
    crate::console_log::init(false);
    if let Err(error) = carry_out(&mut caller) {
        log::error!("{error:#}");
        caller.fail(&error);
    }
}

fn carry_out(caller: &mut Caller) -> Result<()> {
    let config = caller.config()?;
    crate::console_log::init(config.debug);
    // libvirt hands down that of whoever started its daemon, which may lock out all but root.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let begin = Instant::now();
    let mut place = root::Place::assembling(Path::new("/"))?;
    for step in plan(&config) {
        debug!("{:>6} ms  {step:?}", begin.elapsed().as_millis());
        match step {
            Step::Stage(staged) => bail!("{staged:?} cannot be mounted yet"),
            Step::NewRoot { root, targets } => root::new_root(&mut place, &root, &targets)?,
            Step::Mount(mount) => root::add(&place, &mount)?,
            Step::Move(path) => root::carry_over(&place, &path)?,
            Step::Cgroup { name, max_pids } => cgroup::enter(Path::new(NEW_ROOT), &name, max_pids)?,
            Step::Enter => place = root::enter(place)?,
            Step::Mask(path) => root::mask(&place, &path)?,
            Step::Include(include) => root::include(&place, &include)?,
            Step::LinkDisks(_) | Step::Shell(_) => bail!("this cannot be done yet"),
            Step::Pivot(platform) => {
                place = root::pivot(place, platform)?;
                root::drop_unseekable_meminfo();
                caller.reached("root");
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
                crate::keeper::start(&nics, &config.hostname)?;
                caller.reached("network");
            }
            Step::Exec {
                command,
                environment,
            } => match process::exec(&command, &environment)? {},
            Step::Run(command) => return caller.run(&command, config.platform),
        }
    }
    bail!("the plan has no payload")
}
