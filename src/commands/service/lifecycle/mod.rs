//! `start`, `stop`, `restart`, `reload`, `enable` and `disable`.

pub mod run;

use std::process::ExitCode;
use std::time::Duration;

use crate::commands::output;
use crate::commands::service::Names;
use crate::commands::service::batch::{cancel_on_signals, for_each};
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::host;
use crate::service::{Sandbox, Sandboxes};
use crate::sys::process::command;

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

pub fn start(args: &StartArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    for_each(&args.names.names, sandboxes, |name| {
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
        start_unit(name)?;
        warn_of_boot(sandbox);
        return Ok(());
    }
    sandbox.lock()?.start(timeout)?;
    warn_of_boot(sandbox);
    output::progress(&format!("the units of '{name}' are active"));
    Ok(())
}

/// Shows the warnings of guest-init, such as a NIC without an address.
pub fn warn_of_boot(sandbox: &Sandbox<'_>) {
    for warning in sandbox.boot_warnings() {
        log::warn!("'{}': {warning}", sandbox.name());
    }
}

pub fn stop(args: &StopArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    for_each(&args.names.names, sandboxes, |name| {
        sandboxes.get_for_stop(name)?.stop()
    })
}

pub fn restart(args: &StartArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    for_each(&args.names.names, sandboxes, |name| {
        sandboxes.get_for_stop(name)?.stop()?;
        start_one(&sandboxes.get(name)?, timeout(args))
    })
}

pub fn enable(args: &EnableArgs, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    sandboxes.enable(&args.names.names)?;
    for_each(&args.names.names, sandboxes, |name| {
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
    for_each(&args.names.names, sandboxes, |name| {
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
    for_each(&args.names.names, sandboxes, |name| {
        sandboxes.get(name)?.reload(&args.unitfile)
    })
}
