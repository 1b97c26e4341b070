//! `rotate`.

use std::process::ExitCode;
use std::time::Duration;

use clap_complete::ArgValueCandidates;

use super::lifecycle::{self, each};
use crate::commands::complete;
use crate::config::SandboxName;
use crate::error::Result;
use crate::service::Sandboxes;

/// Rotate the logs of running sandboxes, as logrotate does by the configuration in each
#[derive(Debug, clap::Args)]
#[command(
    after_help = "logrotate of the host does so every day for all sandboxes, by /etc/logrotate.d/virt-sandbox-service. \
                  The journal of a sandbox is kept short by its own journald."
)]
pub struct Args {
    /// Those of all sandboxes that run
    #[arg(short, long, conflicts_with = "names")]
    all: bool,
    /// Also what is not due
    #[arg(short, long)]
    force: bool,
    /// Seconds it may take in one sandbox
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Names of sandboxes
    #[arg(required_unless_present = "all", value_name = "NAME", add = ArgValueCandidates::new(complete::sandboxes))]
    names: Vec<SandboxName>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let sandboxes = &sandboxes.cancelled_by(lifecycle::interruption()?);
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
    each(&names, sandboxes, |name| {
        sandboxes.get(name)?.rotate(args.force, limit)
    })
}
