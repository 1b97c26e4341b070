//! `repair`.

use std::process::ExitCode;

use clap_complete::ArgValueCandidates;

use crate::commands::complete;
use crate::commands::output::{self, Format};
use crate::config::SandboxName;
use crate::error::Result;
use crate::service::{Mode, Outcome, Repair, Sandboxes};

/// Finish or undo commands that were interrupted, and remove what they left
///
/// Every other command does so too, but tells less. Sandboxes that a command works on are left alone. Exits with 1 if
/// something is left.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Names of sandboxes [default: all]
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(complete::sandboxes))]
    names: Vec<SandboxName>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let mode = match args.dry_run {
        true => Mode::DryRun,
        false => Mode::Repair,
    };
    for name in &args.names {
        // One that was interrupted may have no configuration.
        if !sandboxes.store.dir(name).is_dir() {
            sandboxes.store.must_exist(name)?;
        }
    }
    let repairs = match args.names.as_slice() {
        [] => sandboxes.repair(&sandboxes.store.names()?, mode)?,
        names => sandboxes.repair(names, mode)?,
    };
    match args.format {
        Format::Json => output::print_json(&repairs)?,
        Format::Table if repairs.is_empty() => output::print("nothing to repair\n")?,
        Format::Table => output::print(&described(&repairs))?,
    }
    let is_done = |repair: &Repair| repair.result == Outcome::Done;
    Ok(match repairs.iter().all(is_done) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn described(repairs: &[Repair]) -> String {
    let rows = repairs.iter().map(|repair| {
        let name = repair.name.as_ref().map(ToString::to_string);
        vec![
            name.unwrap_or_else(|| "-".to_owned()),
            repair.found.clone(),
            repair.action.clone(),
            match &repair.error {
                Some(error) => format!("failed: {error}"),
                None => repair.result.as_str().to_owned(),
            },
        ]
    });
    let heading = ["NAME", "FOUND", "TO DO", "RESULT"].map(str::to_owned);
    let rows: Vec<Vec<String>> = std::iter::once(heading.to_vec()).chain(rows).collect();
    output::table(&rows)
}
