//! `logs`.

use super::Name;
use crate::error::Result;
use crate::service::{Sandboxes, journal};

/// Show the journal of a sandbox, also of one that is stopped
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on showing what is added
    #[arg(short, long)]
    follow: bool,
    /// Only of this unit; may be given more than once
    #[arg(short, long, value_name = "UNIT")]
    unit: Vec<String>,
    /// Only since then, as journalctl(1) takes it: "10 min ago"
    #[arg(short = 'S', long, value_name = "TIME")]
    since: Option<String>,
    /// Only so many lines, the last ones
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,
    #[command(flatten)]
    name: Name,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let config = sandboxes.store.load(&args.name.name)?;
    let mut arguments = Vec::new();
    arguments.extend(args.follow.then(|| "--follow".to_owned()));
    arguments.extend(args.unit.iter().map(|unit| format!("--unit={unit}")));
    arguments.extend(args.since.iter().map(|since| format!("--since={since}")));
    arguments.extend(args.lines.iter().map(|lines| format!("--lines={lines}")));
    Err(journal::show(sandboxes, &config, &arguments))
}
