//! `delete`.

use std::process::ExitCode;

use crate::commands::service::Names;
use crate::commands::service::batch::for_each;
use crate::error::Result;
use crate::service::Sandboxes;

/// Delete stopped sandboxes with all their files
///
/// A sandbox is deleted even if its configuration is missing or broken. One whose files are not there is not: their filesystem
/// may not be mounted. If a deletion fails or is interrupted, the next command, or 'repair', tries again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop running ones first, and delete also those whose files are gone
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
