//! `clone`.

use std::path::PathBuf;

use clap_complete::ArgValueCandidates;

use crate::commands::service::batch::cancel_on_signals;
use crate::commands::service::provision::create;
use crate::commands::{complete, output};
use crate::config::{Hostname, SandboxName, Security};
use crate::error::Result;
use crate::service::Sandboxes;
use crate::service::provision::clone::Request;

/// Copy a sandbox and give the copy its own identity
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The tree of the source is copied as it is; a running source is frozen meanwhile, if libvirt can do \
                  so. The copy has its own machine id, host name, hardware addresses, leases, journal and SSH host keys."
)]
pub struct Args {
    /// Parent directory of the copy's tree [default: /var/lib/libvirt/filesystems]
    #[arg(short, long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Host name inside the copy [default: its name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// Security label of the copy, as of create [default: as the source has]
    #[arg(short, long, value_name = "SECURITY")]
    security: Option<Security>,
    /// Start the copy and wait until its units are active; if that fails, remove it again
    #[arg(long)]
    start: bool,
    /// Name of the sandbox to copy
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    source: SandboxName,
    /// Name of the copy
    dest: SandboxName,
}

pub fn run(args: Args, sandboxes: &Sandboxes) -> Result<()> {
    let request = Request {
        name: args.dest,
        base: args.path.map(create::absolute).transpose()?,
        hostname: args.hostname,
        security: args.security,
    };
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    let sandbox = sandboxes.get(&args.source)?.clone_as(&request)?;
    let config = sandbox.config();
    output::progress(&format!(
        "cloned sandbox '{}' in '{}'",
        config.name,
        config.path.display()
    ));
    if args.start {
        create::start_made(&sandbox, "clone it")?;
    }
    Ok(())
}
