//! PID 1: carries out the [plan](crate::plan) and becomes the payload.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use log::{debug, warn};
use nix::sys::stat::{Mode, umask};
use nix::unistd::sethostname;

use crate::NEW_ROOT;
use crate::config::{GuestConfig, VERSION};
use crate::plan::{Step, plan};
use crate::{cgroup, process, root, static_units};

/// Where the host puts the config, in the staging root.
pub const CONFIG_PATH: &str = "/guest.json";

/// Boots the sandbox. Returns only on failure, which it has logged.
pub fn boot() {
    crate::console_log::keep_in_stage();
    crate::console_log::init(false);
    let Err(error) = run();
    log::error!("{error:#}");
}

fn run() -> Result<std::convert::Infallible> {
    let config = read(Path::new(CONFIG_PATH))?;
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
            Step::Network(nics) => crate::keeper::start(&nics, &config.hostname)?,
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
    let text = fs::read_to_string(path).with_context(doing)?;
    let config: GuestConfig = serde_json::from_str(&text).with_context(doing)?;
    if config.version != VERSION {
        bail!(
            "reading '{}': version {} of the guest config, but this init speaks {VERSION}",
            path.display(),
            config.version
        );
    }
    Ok(config)
}
