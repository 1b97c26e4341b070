//! `rename`.

use clap_complete::ArgValueCandidates;

use crate::commands::service::batch::cancel_on_signals;
use crate::commands::{complete, output};
use crate::config::SandboxName;
use crate::error::Result;
use crate::service::Sandboxes;

/// Rename a stopped sandbox
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the sandbox
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    old: SandboxName,
    /// New name
    new: SandboxName,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    // A rename is short: signals wait for its end.
    let _signals = cancel_on_signals()?;
    sandboxes.get(&args.old)?.rename(&args.new)?;
    output::progress(&format!("'{}' is '{}' now", args.old, args.new));
    Ok(())
}
