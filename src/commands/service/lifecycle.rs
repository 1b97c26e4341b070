//! `start`, `stop`, `restart`, `reload`, `enable`, `disable`, `delete`, and `run`, which the host's unit calls.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Name, Names, PROGRAM, logs};
use crate::commands::output;
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::host;
use crate::ports::forward::Outcome;
use crate::ports::listening;
use crate::service::inspect::journal;
use crate::service::{Cancellation, Failure, Sandbox, Sandboxes};
use crate::sys::image::holder::{self, HolderFiles};
use crate::sys::process::{command, confined, notify};

/// Start sandboxes, and wait until their units are active
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    #[command(flatten)]
    names: Names,
    /// Seconds the units may take to become active [default: as the sandbox was created]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
}

/// Stop sandboxes: their units first, then the rest
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    names: Names,
}

/// Have units in running sandboxes read their configuration again
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// Unit to reload; may be given more than once [default: all of the sandbox that can]
    #[arg(short, long = "unitfile", visible_alias = "unit", value_name = "UNIT")]
    unitfile: Vec<String>,
    #[command(flatten)]
    names: Names,
}

/// Have the host's systemd start sandboxes at boot
#[derive(Debug, clap::Args)]
pub struct EnableArgs {
    /// Start them now, too
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    names: Names,
}

/// Have the host's systemd not start sandboxes at boot any more
#[derive(Debug, clap::Args)]
pub struct DisableArgs {
    /// Stop them now, too
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    names: Names,
}

/// Remove sandboxes that are stopped, with all they have
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Stop them first if they run
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    names: Names,
}

/// Run a sandbox until it ends or SIGTERM comes; for the host's unit. The status is that of a command that was to run once; one
/// that ends well is a success, and so is a stop. Any other end is a failure
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    name: Name,
}

/// Serve the published ports of a sandbox until it ends; `start` calls it
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    name: Name,
    /// Descriptors of sockets that are open already
    sockets: Vec<std::os::fd::RawFd>,
}

/// Hold the image of a sandbox as a block device
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// The image
    image: PathBuf,
    /// Its format
    format: String,
    /// Where the holder keeps its files
    directory: PathBuf,
}

pub fn hold(args: &HoldArgs) -> Result<()> {
    let places = HolderFiles {
        directory: &args.directory,
    };
    holder::hold(&args.image, &args.format, places).map_err(Error::io("holding", &args.image))
}

/// Read what a sandbox has written, confined
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// Number of the file that is the mount it is on
    mount: i32,
    /// User and group id of the reader
    reader: u32,
    /// The program that reads
    #[arg(last = true, required = true)]
    words: Vec<String>,
}

pub fn read_confined(args: &ReadArgs) -> Result<()> {
    let error = confined::exec_reader(args.mount, args.reader, &args.words);
    Err(Error::step("confining what reads")(error))
}

/// Returns a cancellation that the usual signals request.
pub fn interruption() -> Result<Cancellation> {
    let cancellation = Cancellation::default();
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, cancellation.flag())
            .map_err(Error::step("listening for signals"))?;
    }
    Ok(cancellation)
}

/// Does something for each of several sandboxes, of which none is missing. One that fails is said, and keeps none of the others
/// from it; the exit status is that of the first that failed.
pub fn each(
    names: &[SandboxName],
    sandboxes: &Sandboxes,
    act: impl Fn(&SandboxName) -> Result<()>,
) -> Result<ExitCode> {
    for name in names {
        sandboxes.store.load_for_stop(name)?;
    }
    let mut done = BTreeSet::new();
    let mut status = None;
    for name in names.iter().filter(|name| done.insert(*name)) {
        if let Err(error) = act(name) {
            let failed = output::fail(PROGRAM, &error);
            status.get_or_insert(failed);
        }
        if sandboxes.is_cancelled() {
            break;
        }
    }
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

pub fn start(args: &StartArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(interruption()?);
    each(&args.names.names, sandboxes, |name| {
        // systemd would say nothing. What runs without its unit being active is taken over.
        if is_up(name) {
            return Err(Error::running(format!(
                "the sandbox '{name}' is running already"
            )));
        }
        start_one(&sandboxes.get(name)?, timeout(args))
    })
}

/// Whether the host's unit of a sandbox is active.
fn is_up(name: &SandboxName) -> bool {
    host::runs_systemd()
        && command::capture("systemctl", ["is-active", "--quiet", "--", &name.unit()])
            .is_ok_and(|asked| asked.success)
}

fn timeout(args: &StartArgs) -> Option<Duration> {
    let seconds = args.timeout?;
    Some(Duration::from_secs(seconds.into()))
}

/// Starts a sandbox: through the host's systemd, so that it knows of it, but for a time of its own.
pub fn start_one(sandbox: &Sandbox<'_>, timeout: Option<Duration>) -> Result<()> {
    let name = sandbox.name();
    let is_hosts = host::runs_systemd() && sandbox.store().unit(name).exists();
    if is_hosts && timeout.is_none() {
        return start_unit(name);
    }
    sandbox.lock()?.start(timeout)?;
    output::progress(&format!("the units of '{name}' are active"));
    Ok(())
}

pub fn stop(args: &StopArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    each(&args.names.names, sandboxes, |name| {
        sandboxes.get_for_stop(name)?.stop()
    })
}

pub fn restart(args: &StartArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(interruption()?);
    each(&args.names.names, sandboxes, |name| {
        sandboxes.get_for_stop(name)?.stop()?;
        start_one(&sandboxes.get(name)?, timeout(args))
    })
}

pub fn enable(args: &EnableArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(interruption()?);
    sandboxes.enable(&args.names.names)?;
    each(&args.names.names, sandboxes, |name| {
        if args.now {
            let sandbox = sandboxes.get(name)?;
            if !sandbox.listen(true) && !sandbox.is_running()? {
                start_one(&sandbox, None)?;
            }
        }
        Ok(())
    })
}

pub fn disable(args: &DisableArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    sandboxes.disable(&args.names.names)?;
    each(&args.names.names, sandboxes, |name| {
        if args.now {
            sandboxes.get(name)?.listen(false);
            sandboxes.get_for_stop(name)?.stop()?;
        }
        Ok(())
    })
}

/// Has the host's systemd start the unit of a sandbox. What it said went to the journal; the end of it is shown where it
/// failed.
fn start_unit(name: &SandboxName) -> Result<()> {
    let unit = name.unit();
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
    Err(Error::not_ready(format!(
        "systemctl start {unit}: {}\n{}",
        done.stderr,
        journal.stdout.trim_end()
    )))
}

pub fn reload(args: &ReloadArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    each(&args.names.names, sandboxes, |name| {
        sandboxes.get(name)?.reload(&args.unitfile)
    })
}

pub fn delete(args: &DeleteArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    each(&args.names.names, sandboxes, |name| {
        sandboxes.get_for_stop(name)?.delete(args.force)
    })
}

pub fn run(args: &RunArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let name = &args.name.name;
    let sandboxes = &sandboxes.cancelled_by(interruption()?);
    match keep(name, sandboxes) {
        Ok(None) => Ok(ExitCode::SUCCESS),
        Ok(Some(Failure { text, status })) => {
            sandboxes.store.note_failure(name, &text);
            let _ = output::fail(PROGRAM, &Error::refused(text));
            Ok(ExitCode::from(status))
        }
        Err(error) => {
            if !sandboxes.is_cancelled() {
                sandboxes.store.note_failure(name, &error.to_string());
            }
            Err(error)
        }
    }
}

/// Starts a sandbox, or takes over one that runs, and stays until its end: tells why that was no good one. Being asked to stop is one,
/// also before it is up.
fn keep(name: &SandboxName, sandboxes: &Sandboxes) -> Result<Option<Failure>> {
    let sockets = listening::inherited();
    let mut sandbox = sandboxes.get(name)?;
    let begin = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let ports = match sandbox.take_over(&sockets) {
        // One that was there before runs still.
        Err(Error::Interrupted) => return sandbox.lock_for_stop()?.stop().map(|()| None),
        taken => taken?,
    };
    notify::ready(&format!("the units of '{name}' are active"))?;
    // The sandbox's journal becomes the unit's. Where it cannot be followed the sandbox still runs.
    let follower = journal::follow(&sandbox, begin).map(|mut journalctl| {
        let said = journalctl.stdout.take();
        let showing = said.map(|said| thread::spawn(move || logs::show(said)));
        (journalctl, showing)
    });
    let ended = sandbox.wait(&ports);
    // Where its ports are not served it is no use.
    let noted = match ended {
        Ok(Outcome::Gone) => Ok(()),
        Ok(Outcome::Stopped | Outcome::Idle) | Err(_) => notify::stopping(),
    };
    // What the units say while they stop belongs to its journal as well.
    let stopped = noted.and_then(|()| sandbox.lock_for_stop()?.stop());
    match follower {
        Ok((mut journalctl, showing)) => {
            let _ = journalctl.kill();
            let _ = journalctl.wait();
            drop(showing.map(thread::JoinHandle::join));
        }
        Err(error) => log::warn!("following the journal: {error}"),
    }
    stopped?;
    match ended? {
        Outcome::Stopped => Ok(None),
        Outcome::Idle => {
            log::info!("nobody has asked for '{name}' for long: it was stopped");
            Ok(None)
        }
        Outcome::Gone => Ok(sandbox.failure()),
    }
}

pub fn forward(args: &ForwardArgs, sandboxes: &Sandboxes) -> Result<()> {
    let sandboxes = sandboxes.cancelled_by(interruption()?);
    sandboxes.get(&args.name.name)?.serve_ports(&args.sockets)
}
