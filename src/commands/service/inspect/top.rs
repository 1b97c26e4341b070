//! `top`.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use clap_complete::ArgValueCandidates;

use guest_init::config::WindowSize;

use crate::commands::service::batch::cancel_on_signals;
use crate::commands::service::inspect::stats::{seconds, size};
use crate::commands::{complete, output};
use crate::config::SandboxName;
use crate::console::terminal_size;
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::service::inspect::stats::{Meter, Stats, pause};

/// Show the resource usage of sandboxes continuously; Ctrl+C ends it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "If standard output is not a terminal, and neither -b nor -n is given, one table is printed."
)]
pub struct Args {
    /// Interval, in seconds
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    delay: f64,
    /// Number of iterations
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// Print the tables one after another, even on a terminal
    #[arg(short, long)]
    batch: bool,
    /// Names of running sandboxes [default: all]
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(complete::sandboxes))]
    names: Vec<SandboxName>,
}

const HEADING: [&str; 9] = [
    "NAME",
    "CPU",
    "MEMORY",
    "LIMIT",
    "READ/S",
    "WRITTEN/S",
    "RECEIVED/S",
    "SENT/S",
    "PROCESSES",
];

/// Control sequences of terminals (ECMA-48, and DEC's private modes for the cursor).
const CLEAR: &str = "\x1b[2J";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    let is_terminal = io::stdout().is_terminal();
    let is_live = is_terminal && !args.batch;
    let once = (!is_terminal && !args.batch).then_some(1);
    let mut meter = Meter::new(sandboxes, &args.names);
    meter.look()?;
    let mut left = args.iterations.or(once);
    if is_live {
        write(&format!("{HIDE_CURSOR}{CLEAR}"))?;
    }
    let mut is_first = true;
    let shown = loop {
        if left == Some(0) || pause(Duration::from_secs_f64(args.delay), &sandboxes.cancellation) {
            break Ok(());
        }
        left = left.map(|left| left - 1);
        let written = meter.look().and_then(|all| {
            let table = table(all);
            write(&if is_live {
                screen(&table, terminal_size())
            } else if is_first {
                table
            } else {
                format!("\n{table}")
            })
        });
        is_first = false;
        match written {
            Ok(true) => {}
            // Nobody reads any more.
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if is_live {
        write(SHOW_CURSOR)?;
    }
    shown
}

/// Prints; returns false if nobody reads any more.
fn write(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::step("printing")(error)),
    }
}

/// Formats the table, busiest sandbox first.
fn table(mut all: Vec<Stats>) -> String {
    all.sort_by(|a, b| {
        let busier = b.cpu_percent.total_cmp(&a.cpu_percent);
        busier.then_with(|| a.name.cmp(&b.name))
    });
    let heading = HEADING.map(str::to_owned).to_vec();
    let rows = std::iter::once(heading).chain(all.iter().map(row));
    output::table(&rows.collect::<Vec<_>>())
}

fn row(stats: &Stats) -> Vec<String> {
    let none = || "-".to_owned();
    let rate = |rate: f64| size(rate as u64);
    vec![
        stats.name.to_string(),
        format!("{:.1}%", stats.cpu_percent),
        size(stats.memory),
        stats.memory_limit.map_or_else(none, size),
        stats.io_read_rate.map_or_else(none, rate),
        stats.io_written_rate.map_or_else(none, rate),
        rate(stats.net_received_rate),
        rate(stats.net_sent_rate),
        stats.processes.map_or_else(none, |count| count.to_string()),
    ]
}

/// Formats a table for a terminal of this size, truncated to it.
fn screen(table: &str, WindowSize { rows, columns }: WindowSize) -> String {
    let mut text = HOME.to_owned();
    // Leave the last line free, so that nothing scrolls.
    for line in table.lines().take(usize::from(rows).saturating_sub(1)) {
        text.extend(line.chars().take(columns.into()));
        text.push_str(CLEAR_LINE);
        text.push('\n');
    }
    text.push_str(CLEAR_BELOW);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_never_left() {
        let table = "NAME   CPU\nweb1   1%\nweb2   2%\n";
        let size = WindowSize {
            rows: 3,
            columns: 8,
        };
        assert_eq!(
            screen(table, size),
            "\x1b[HNAME   C\x1b[K\nweb1   1\x1b[K\n\x1b[J"
        );
    }
}
