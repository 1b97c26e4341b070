//! `upgrade`.

use std::cell::RefCell;
use std::process::ExitCode;

use crate::commands::output::{self, Format};
use crate::commands::service::batch::{cancel_on_signals, for_each_unchecked};
use crate::commands::service::lifecycle;
use crate::config::SandboxName;
use crate::error::Result;
use crate::service::Sandboxes;
use crate::service::upgrade::{Options, legacy, report};

/// Upgrade sandboxes after the host has changed: configuration files, accounts and packages. This also applies
/// edits of sandbox.toml, and converts sandboxes of libvirt-sandbox
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Upgrade all sandboxes
    #[arg(long, conflicts_with = "name", required_unless_present = "name")]
    all: bool,
    /// Print the treatment of every path with the reason, and differences of texts; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Show which running sandboxes have programs, libraries or a kernel in memory that the host has replaced; change nothing
    #[arg(long, conflicts_with_all = ["dry_run", "restart", "trust"])]
    check: bool,
    /// Output format of --check
    #[arg(long, value_enum, default_value_t, requires = "check")]
    format: Format,
    /// Restart running sandboxes that have changed, or run programs that the host has replaced; if one does not become ready, undo its upgrade
    #[arg(long, conflicts_with = "dry_run")]
    restart: bool,
    /// Treat an imported sandbox as created here: also bring files of its units and packages that only some users of this
    /// host may read, now and later
    #[arg(long, conflicts_with = "all")]
    trust: bool,
    /// Name of a sandbox; may be given more than once
    name: Vec<SandboxName>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let names = match args.all {
        true => all(sandboxes)?,
        false => args.name.clone(),
    };
    if args.check {
        return check(&names, args.format, sandboxes);
    }
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
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
    for_each_unchecked(&names, sandboxes, |name| {
        let done = one(name);
        if done.is_err() && names.len() > 1 {
            output::print(&format!("{name}: failed\n"))?;
        }
        done
    })
}

/// Returns the names of all sandboxes. One of another program must be named, because the conversion cannot be undone.
fn all(sandboxes: &Sandboxes) -> Result<Vec<SandboxName>> {
    let store = &sandboxes.store;
    let mut names = store.names()?;
    names.retain(|name| {
        let is_ours = store.config(name).exists();
        if !is_ours && legacy::find(store, name).is_some() {
            log::info!(
                "'{name}' was made by libvirt-sandbox: 'virt-sandbox-service upgrade {name}' converts it"
            );
        }
        is_ours
    });
    Ok(names)
}

/// Prints which sandboxes run what the host has replaced. With a table, those that do not run are left out.
fn check(names: &[SandboxName], format: Format, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let found = RefCell::new(Vec::new());
    let status = for_each_unchecked(names, sandboxes, |name| {
        let fresh = sandboxes.get(name)?.freshness()?;
        found.borrow_mut().push(fresh);
        Ok(())
    })?;
    let found = found.into_inner();
    match format {
        Format::Json => output::print_json(&found)?,
        Format::Table => {
            let lines = found.iter().filter(|one| one.running).map(|one| {
                let state = match one.outdated {
                    true => format!("restart it: it runs old {}", one.found.described()),
                    false => "up to date".to_owned(),
                };
                format!("{}: {state}\n", one.name)
            });
            output::print(&output::printable(&lines.collect::<String>()))?;
        }
    }
    Ok(status)
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
