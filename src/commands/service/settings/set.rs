//! `set`.

use crate::commands::service::Name;
use crate::commands::service::batch::cancel_on_signals;
use crate::config::Change;
use crate::error::Result;
use crate::service::Sandboxes;

/// Change limits of a sandbox
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The limits are those of 'create'. Memory, CPU time, I/O weight and the number of processes change at once in a \
                  running sandbox, the others at its next start. 'edit' changes everything else, such as ports, mounts and \
                  networks."
)]
pub struct Args {
    #[command(flatten)]
    name: Name,
    /// Limit and value, such as memory=1G; memory= restores the default
    #[arg(required = true, value_name = "KEY=VALUE")]
    changes: Vec<Change>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let _signals = cancel_on_signals()?;
    for (key, reason) in sandboxes.get(&args.name.name)?.lock()?.set(&args.changes)? {
        log::info!("'{key}' takes effect at the next start: {reason}");
    }
    Ok(())
}
