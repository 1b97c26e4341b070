//! `start`, `stop`, `restart`, `reload`, `enable`, `disable`, `delete`, and `run`, which the host's unit runs.

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

/// Start sandboxes and wait until their units are active
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    #[command(flatten)]
    names: Names,
    /// Maximum time until the units are active, in seconds [default: `timeout` of the sandbox]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
}

/// Stop sandboxes
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    names: Names,
}

/// Reload units in running sandboxes
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// Unit to reload; may be given more than once [default: all units of the sandbox that can reload]
    #[arg(short, long = "unitfile", visible_alias = "unit", value_name = "UNIT")]
    unitfile: Vec<String>,
    #[command(flatten)]
    names: Names,
}

/// Start sandboxes at boot, by the host's systemd
#[derive(Debug, clap::Args)]
pub struct EnableArgs {
    /// Start them now too
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    names: Names,
}

/// Do not start sandboxes at boot any more
#[derive(Debug, clap::Args)]
pub struct DisableArgs {
    /// Stop them now too
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    names: Names,
}

/// Delete stopped sandboxes with all their files
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Stop running ones first
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    names: Names,
}

/// Run a sandbox until it ends or gets SIGTERM; for the host's unit. The status is that of a command that runs once;
/// a stop is a success, and any other end a failure
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    name: Name,
}

/// Forward the published ports of a sandbox until it ends; `start` runs it
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    name: Name,
    /// Descriptors of open sockets
    sockets: Vec<std::os::fd::RawFd>,
}

/// Keep the image of a sandbox open as a block device
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// Image
    image: PathBuf,
    /// Format of the image
    format: String,
    /// Directory for files of this process
    directory: PathBuf,
}

pub fn hold(args: &HoldArgs) -> Result<()> {
    let places = HolderFiles {
        directory: &args.directory,
    };
    holder::hold(&args.image, &args.format, places).map_err(Error::io("holding", &args.image))
}

/// Run a confined reader of files that a sandbox has written
#[derive(Debug, clap::Args)]
pub struct ReadArgs {
    /// Descriptor of the mount to read
    mount: i32,
    /// Uid and gid of the reader
    reader: u32,
    /// Reader with its arguments
    #[arg(last = true, required = true)]
    words: Vec<String>,
}

pub fn read_confined(args: &ReadArgs) -> Result<()> {
    let error = confined::exec_reader(args.mount, args.reader, &args.words);
    Err(Error::step("confining what reads")(error))
}

/// Returns a cancellation that SIGINT, SIGTERM and SIGHUP request.
pub fn interruption() -> Result<Cancellation> {
    let cancellation = Cancellation::default();
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, cancellation.flag())
            .map_err(Error::step("listening for signals"))?;
    }
    Ok(cancellation)
}

/// Runs an operation for each of several sandboxes, after checking that all exist. A failure is printed and does not stop the
/// others; the exit status is that of the first failure.
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
        // systemd would silently succeed. A sandbox that runs without its unit is taken over.
        if is_up(name) {
            return Err(Error::running(format!(
                "the sandbox '{name}' is running already"
            )));
        }
        start_one(&sandboxes.get(name)?, timeout(args))
    })
}

/// Returns true if the host's unit of a sandbox is active.
fn is_up(name: &SandboxName) -> bool {
    host::runs_systemd()
        && command::capture("systemctl", ["is-active", "--quiet", "--", &name.unit()])
            .is_ok_and(|asked| asked.success)
}

fn timeout(args: &StartArgs) -> Option<Duration> {
    let seconds = args.timeout?;
    Some(Duration::from_secs(seconds.into()))
}

/// Starts a sandbox through the host's systemd, or directly if `timeout` is given.
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

/// Starts the unit of a sandbox by the host's systemd. Its messages go to the journal; the last ones are shown if it
/// fails.
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

/// Starts a sandbox, or takes over a running one, and waits for its end. Returns the reason of a failure; a requested stop is none,
/// even before the sandbox is ready.
fn keep(name: &SandboxName, sandboxes: &Sandboxes) -> Result<Option<Failure>> {
    let sockets = listening::inherited();
    let mut sandbox = sandboxes.get(name)?;
    let begin = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let ports = match sandbox.take_over(&sockets) {
        // A sandbox that was taken over still runs.
        Err(Error::Interrupted) => return sandbox.lock_for_stop()?.stop().map(|()| None),
        taken => taken?,
    };
    notify::ready(&format!("the units of '{name}' are active"))?;
    // Copy the sandbox's journal to the unit's. If that fails, the sandbox runs nevertheless.
    let follower = journal::follow(&sandbox, begin).map(|mut journalctl| {
        let said = journalctl.stdout.take();
        let showing = said.map(|said| thread::spawn(move || logs::show(said)));
        (journalctl, showing)
    });
    let ended = sandbox.wait(&ports);
    // A sandbox whose ports are not forwarded is useless: stop it.
    let noted = match ended {
        Ok(Outcome::Gone) => Ok(()),
        Ok(Outcome::Stopped | Outcome::Idle) | Err(_) => notify::stopping(),
    };
    // Keep following while the units stop.
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
