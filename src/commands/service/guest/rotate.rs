//! `rotate`.

use std::process::ExitCode;
use std::time::Duration;

use clap_complete::ArgValueCandidates;

use crate::commands::complete;
use crate::commands::service::batch::{cancel_on_signals, for_each};
use crate::config::SandboxName;
use crate::error::Result;
use crate::service::Sandboxes;

/// Rotate the logs of running sandboxes with logrotate and the configuration in each
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The host's logrotate does this every day for all sandboxes, by /etc/logrotate.d/virt-sandbox-service. \
                  The journald of a sandbox limits its journal itself."
)]
pub struct Args {
    /// Rotate the logs of all running sandboxes
    #[arg(short, long, conflicts_with = "names")]
    all: bool,
    /// Rotate logs that are not due too
    #[arg(short, long)]
    force: bool,
    /// Maximum time for one sandbox, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Names of sandboxes
    #[arg(required_unless_present = "all", value_name = "NAME", add = ArgValueCandidates::new(complete::sandboxes))]
    names: Vec<SandboxName>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    let limit = Duration::from_secs(args.timeout.into());
    let names = if args.all {
        let running = sandboxes.list()?.into_iter();
        running
            .filter(|summary| summary.state == "running")
            .map(|summary| summary.name)
            .collect()
    } else {
        args.names.clone()
    };
    for_each(&names, sandboxes, |name| {
        sandboxes.get(name)?.rotate(args.force, limit)
    })
}
