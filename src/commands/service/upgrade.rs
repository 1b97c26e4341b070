//! `upgrade`.

use super::lifecycle;
use crate::commands::output;
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::service::upgrade::{Options, legacy, report};

/// Bring sandboxes along after the host has changed: its configuration files, accounts and packages; also what was
/// edited in a sandbox.toml, and a sandbox of libvirt-sandbox
#[derive(Debug, clap::Args)]
pub struct Args {
    /// All sandboxes
    #[arg(long, conflicts_with = "name", required_unless_present = "name")]
    all: bool,
    /// Print every path with what would become of it and why, and what changes in texts; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restart what runs and has something new to see; what does not come up then is as it was before
    #[arg(long, conflicts_with = "dry_run")]
    restart: bool,
    /// Take a sandbox that was imported as one made here: bring also what of its units and packages only some users of this
    /// host may read, now and later
    #[arg(long, conflicts_with = "all")]
    trust: bool,
    /// Name of a sandbox; may be given more than once
    name: Vec<SandboxName>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let names = match args.all {
        true => all(sandboxes)?,
        false => args.name.clone(),
    };
    let sandboxes = &sandboxes.cancelled_by(lifecycle::interruption()?);
    let start = |name: &SandboxName| lifecycle::start_one(&sandboxes.get(name)?, None);
    let options = Options {
        restart: args.restart,
        trust: args.trust,
        start: &start,
    };
    let one = |name: &SandboxName| match args.dry_run {
        true => preview(name, sandboxes, args.trust),
        false => upgrade(name, sandboxes, &options),
    };
    if let [name] = names.as_slice() {
        return one(name);
    }
    let mut failed = Vec::new();
    for name in &names {
        if sandboxes.is_cancelled() {
            return Err(Error::Interrupted);
        }
        if let Err(error) = one(name) {
            output::print(&format!("{name}: failed\n"))?;
            // The status is ours: one number for many.
            let _ = output::fail(super::PROGRAM, &error);
            failed.push(name.as_str());
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Error::refused(format!(
            "{} of {} sandboxes could not be upgraded: {}",
            failed.len(),
            names.len(),
            failed.join(", ")
        ))),
    }
}

/// The names of all sandboxes. One of another program is converted by its name only: there is no way back.
fn all(sandboxes: &Sandboxes) -> Result<Vec<SandboxName>> {
    let store = &sandboxes.store;
    let mut names = store.names()?;
    names.retain(|name| {
        let is_ours = store.config(name).exists();
        if !is_ours && legacy::find(store, name).is_some() {
            log::info!(
                "'{name}' is of libvirt-sandbox: 'virt-sandbox-service upgrade {name}' converts it"
            );
        }
        is_ours
    });
    Ok(names)
}

fn upgrade(name: &SandboxName, sandboxes: &Sandboxes, options: &Options<'_>) -> Result<()> {
    let outcome = sandboxes.upgrade(name, options)?;
    let mut text = format!("{name}: {}\n", outcome.summary);
    for line in outcome.lines {
        text.push_str(&format!("  {line}\n"));
    }
    output::print(&output::printable(&text))
}

fn preview(name: &SandboxName, sandboxes: &Sandboxes, trust: bool) -> Result<()> {
    let preview = sandboxes.preview_upgrade(name, trust)?;
    let plan = &preview.plan;
    let mut text = format!("{name}: {}\n", report::summary(plan, false));
    for line in preview.converted.iter().chain(&report::lines(plan)) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&preview.diff()?);
    output::print(&output::printable(&text))
}
