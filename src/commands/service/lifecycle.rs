//! `start`, `stop`, `restart`, `reload`, `delete`, and `run`, which the host's unit calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Name;
use crate::commands::output;
use crate::error::{Error, Result};
use crate::host;
use crate::service::{Sandboxes, journal};
use crate::sys::{command, notify};

/// Start a sandbox, and wait until its units are active
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    #[command(flatten)]
    name: Name,
    /// Seconds the units may take to become active [default: as the sandbox was created]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
}

/// Stop a sandbox: its units first, then the rest
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    name: Name,
}

/// Have units in a running sandbox read their configuration again
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// Unit to reload [default: all of the sandbox]
    #[arg(short, long = "unitfile", visible_alias = "unit", value_name = "UNIT")]
    unitfile: Vec<String>,
    #[command(flatten)]
    name: Name,
}

/// Remove a sandbox that is stopped, with all it has
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Stop it first if it runs
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    name: Name,
}

/// Run a sandbox until it ends or SIGTERM comes; for the host's unit
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    name: Name,
}

/// Says whether one of the usual signals has asked to end.
pub fn interruption() -> Result<impl Fn() -> bool> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked))
            .map_err(Error::step("listening for signals"))?;
    }
    Ok(move || asked.load(Ordering::Relaxed))
}

/// Whether the host's systemd is to start the sandbox, so that it knows of it.
fn is_hosts(sandboxes: &Sandboxes, args: &Name) -> bool {
    host::runs_systemd() && sandboxes.store.unit(&args.name).exists()
}

pub fn start(args: &StartArgs, sandboxes: &Sandboxes) -> Result<()> {
    let timeout = args
        .timeout
        .map(|seconds| Duration::from_secs(seconds.into()));
    start_named(&args.name, timeout, sandboxes, &interruption()?)
}

/// Starts a sandbox: through the host's systemd, so that it knows of it, but for a time of its own.
pub fn start_named(
    args: &Name,
    timeout: Option<Duration>,
    sandboxes: &Sandboxes,
    interrupted: &dyn Fn() -> bool,
) -> Result<()> {
    let name = &args.name;
    sandboxes.store.load(name)?;
    if is_hosts(sandboxes, args) && timeout.is_none() {
        // systemd would say nothing.
        if command::capture("systemctl", ["is-active", "--quiet", "--", &name.unit()])
            .is_ok_and(|asked| asked.success)
        {
            return Err(Error::refused(format!(
                "the sandbox '{name}' is running already"
            )));
        }
        return start_unit(args);
    }
    sandboxes.start(name, timeout, interrupted)?;
    output::progress(&format!("the units of '{name}' are active"));
    Ok(())
}

pub fn stop(args: &StopArgs, sandboxes: &Sandboxes) -> Result<()> {
    sandboxes.stop(&args.name.name)
}

pub fn restart(args: &StartArgs, sandboxes: &Sandboxes) -> Result<()> {
    sandboxes.stop(&args.name.name)?;
    start(args, sandboxes)
}

/// Has the host's systemd start the unit of a sandbox. What it said went to the journal; the end of it is shown where it
/// failed.
fn start_unit(args: &Name) -> Result<()> {
    let unit = args.name.unit();
    let run = |program: &str, arguments: &[&str]| {
        command::capture(program, arguments.iter().copied())
            .map_err(Error::step(format!("running {program}")))
    };
    let done = run("systemctl", &["start", "--", &unit])?;
    if done.success {
        return Ok(());
    }
    let journal = run(
        "journalctl",
        &["--no-pager", "--output=cat", "-n", "25", "-u", &unit],
    )?;
    Err(Error::NotReady(format!(
        "systemctl start {unit}: {}\n{}",
        done.stderr,
        journal.stdout.trim_end()
    )))
}

pub fn reload(args: &ReloadArgs, sandboxes: &Sandboxes) -> Result<()> {
    sandboxes.reload(&args.name.name, &args.unitfile)
}

pub fn delete(args: &DeleteArgs, sandboxes: &Sandboxes) -> Result<()> {
    sandboxes.delete(&args.name.name, args.force)
}

pub fn run(args: &RunArgs, sandboxes: &Sandboxes) -> Result<()> {
    let name = &args.name.name;
    let interrupted = interruption()?;
    let config = sandboxes.store.load(name)?;
    let begin = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    sandboxes.take_over(name, &interrupted)?;
    notify::ready(&format!("the units of '{name}' are active"))?;
    // The sandbox's journal becomes the unit's. Where it cannot be followed the sandbox still runs.
    let follower = journal::follow(&config, begin);
    let ended = sandboxes.wait(name, &interrupted);
    match follower {
        Ok(mut follower) => {
            let _ = follower.kill();
            let _ = follower.wait();
        }
        Err(error) => log::warn!("following the journal: {error}"),
    }
    if !ended? {
        notify::stopping()?;
        return sandboxes.halt(name);
    }
    sandboxes.halt(name)?;
    Err(Error::refused(format!(
        "the sandbox '{name}' has ended by itself"
    )))
}
