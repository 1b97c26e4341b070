//! `run`, the command of the host's unit.

use std::process::ExitCode;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::commands::output;
use crate::commands::service::batch::cancel_on_signals;
use crate::commands::service::inspect::logs;
use crate::commands::service::lifecycle::warn_of_boot;
use crate::commands::service::{Name, PROGRAM};
use crate::config::SandboxName;
use crate::error::{Error, ErrorKind, Result};
use crate::ports::forward::Outcome;
use crate::ports::listening;
use crate::service::inspect::journal;
use crate::service::{Failure, Sandboxes};
use crate::sys::process::notify;

/// Run a sandbox until it ends or gets SIGTERM; for the host's unit. The status is that of a command that runs once;
/// a stop is a success, and any other end a failure
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    name: Name,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let name = &args.name.name;
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
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
    let begin = SystemTime::now();
    let ports = match sandbox.take_over(&sockets) {
        // A sandbox that was taken over still runs.
        Err(Error::Interrupted) => return sandbox.lock_for_stop()?.stop().map(|()| None),
        Err(error) if error.kind() == ErrorKind::NotReady => {
            return match sandbox.command_failure(begin) {
                Some(status) => Ok(Some(Failure {
                    text: error.to_string(),
                    status,
                })),
                None => Err(error),
            };
        }
        taken => taken?,
    };
    warn_of_boot(&sandbox);
    notify::ready(&format!("the units of '{name}' are active"))?;
    // Copy the sandbox's journal to the unit's. If that fails, the sandbox runs nevertheless.
    let follower = journal::follow(
        &sandbox,
        begin.duration_since(UNIX_EPOCH).unwrap_or_default(),
    )
    .map(|mut journalctl| {
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
            log::info!("'{name}' had no connection for its idle time and was stopped");
            Ok(None)
        }
        Outcome::Gone => Ok(sandbox.failure()),
    }
}
