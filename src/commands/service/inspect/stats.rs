//! `stats`.

use std::time::Duration;

use clap_complete::ArgValueCandidates;

use crate::commands::complete;
use crate::commands::output::{self, Format};
use crate::commands::service::batch::cancel_on_signals;
use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::service::inspect::stats::Stats;

/// Show the resource usage of sandboxes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Duration of the measurement, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Names of running sandboxes [default: all]
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    names: Vec<SandboxName>,
}

pub fn seconds(text: &str) -> Result<f64> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (0.05..=3600.0).contains(seconds));
    seconds.ok_or_else(|| Error::refused(format!("'{text}' is not a number from 0.05 to 3600")))
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let interval = Duration::from_secs_f64(args.interval);
    let sandboxes = sandboxes.cancelled_by(cancel_on_signals()?);
    let all = sandboxes.stats(&args.names, interval)?;
    match args.format {
        Format::Json => output::print_json(&all),
        Format::Table => {
            let heading = HEADING.map(str::to_owned).to_vec();
            let rows = std::iter::once(heading).chain(all.iter().map(row));
            output::print(&output::table(&rows.collect::<Vec<_>>()))
        }
    }
}

const HEADING: [&str; 11] = [
    "NAME",
    "CPU",
    "CPU-TIME",
    "MEMORY",
    "LIMIT",
    "READ",
    "WRITTEN",
    "RECEIVED",
    "SENT",
    "PROCESSES",
    "UPTIME",
];

fn row(stats: &Stats) -> Vec<String> {
    let maybe = |number: Option<u64>| number.map_or("-".to_owned(), size);
    vec![
        stats.name.to_string(),
        format!("{:.1}%", stats.cpu_percent),
        format!("{:.1}s", stats.cpu_seconds),
        size(stats.memory),
        maybe(stats.memory_limit),
        maybe(stats.io_read),
        maybe(stats.io_written),
        size(stats.net_received),
        size(stats.net_sent),
        stats
            .processes
            .map_or("-".to_owned(), |count| count.to_string()),
        duration(stats.uptime),
    ]
}

/// Formats a number of bytes with about three digits.
pub fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut units = ["B", "K", "M", "G", "T"].iter().peekable();
    let mut unit = units.next();
    while amount >= 1024.0 && units.peek().is_some() {
        amount /= 1024.0;
        unit = units.next();
    }
    let digits = usize::from(amount < 10.0 && bytes >= 1024);
    format!("{amount:.digits$}{}", unit.unwrap_or(&""))
}

/// Formats a duration in its two largest units.
fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", whole % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        for (bytes, shown) in [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "1.5K"),
            (20 << 20, "20M"),
            (5 << 50, "5120T"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        for (seconds, shown) in [
            (0.4, "0s"),
            (61.0, "1m 1s"),
            (7260.0, "2h 1m"),
            (90_000.0, "1d 1h"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("0.5").is_ok());
    }
}
