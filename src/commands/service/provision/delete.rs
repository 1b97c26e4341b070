//! `delete`.

use std::process::ExitCode;

use crate::commands::service::Names;
use crate::commands::service::batch::for_each;
use crate::error::Result;
use crate::service::Sandboxes;

/// Delete stopped sandboxes with all their files
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop running ones first
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    names: Names,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    for_each(&args.names.names, sandboxes, |name| {
        sandboxes.get_for_stop(name)?.delete(args.force)
    })
}
