//! `delete`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::commands::service::Names;
use crate::commands::service::batch::for_each;
use crate::commands::service::provision::create;
use crate::error::{Error, Result};
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
    /// Parent directory of their trees, to delete only sandboxes that are there
    #[arg(short, long, value_name = "DIR")]
    path: Option<PathBuf>,
    #[command(flatten)]
    names: Names,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let base = args.path.clone().map(create::absolute).transpose()?;
    for_each(&args.names.names, sandboxes, |name| {
        let sandbox = sandboxes.get_for_stop(name)?;
        let path = &sandbox.config().path;
        match base.as_deref() {
            Some(base) if path.parent() != Some(base) => Err(Error::refused(format!(
                "the tree of '{name}' is '{}', not in '{}'; leave out --path",
                path.display(),
                base.display()
            ))),
            Some(_) | None => sandbox.delete(args.force),
        }
    })
}
