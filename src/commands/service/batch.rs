//! Commands about several sandboxes, and signals that end a command early.

use std::collections::BTreeSet;
use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::commands::output;
use crate::commands::service::PROGRAM;
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::service::{Cancellation, Sandboxes};

/// Returns a cancellation that SIGINT, SIGTERM and SIGHUP request.
pub fn cancel_on_signals() -> Result<Cancellation> {
    let cancellation = Cancellation::default();
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, cancellation.flag())
            .map_err(Error::step("listening for signals"))?;
    }
    Ok(cancellation)
}

/// Runs an operation for each of several sandboxes, after checking that all exist.
pub fn for_each(
    names: &[SandboxName],
    sandboxes: &Sandboxes,
    act: impl Fn(&SandboxName) -> Result<()>,
) -> Result<ExitCode> {
    for name in names {
        sandboxes.store.load_for_stop(name)?;
    }
    for_each_unchecked(names, sandboxes, act)
}

/// Runs an operation for each of several names. A failure is printed and does not stop the others; the exit status is that of the
/// first failure.
pub fn for_each_unchecked(
    names: &[SandboxName],
    sandboxes: &Sandboxes,
    act: impl Fn(&SandboxName) -> Result<()>,
) -> Result<ExitCode> {
    let mut done = BTreeSet::new();
    let mut status = None;
    for name in names.iter().filter(|name| done.insert(*name)) {
        if sandboxes.is_cancelled() {
            return status.ok_or(Error::Interrupted);
        }
        if let Err(error) = act(name) {
            let failed = output::fail(PROGRAM, &error);
            status.get_or_insert(failed);
        }
    }
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}
