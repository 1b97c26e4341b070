//! `logs`.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Name;
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::service::journal::{self, turns};
use crate::sys::printable::printable;

/// Show the journal of a sandbox, also of one that is stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "Times, formats and boots are those of journalctl(1).")]
pub struct Args {
    /// Go on showing what is added
    #[arg(short, long)]
    follow: bool,
    /// Only of this unit; may be given more than once
    #[arg(short, long, value_name = "UNIT")]
    unit: Vec<String>,
    /// Only since then: "2026-01-31 12:00", "10 min ago", -1h
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only until then
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only so many lines, the last ones
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,
    /// Only of the last start; -b=-1 is the one before
    #[arg(short, long, value_name = "BOOT", num_args = 0..=1, require_equals = true, default_missing_value = "", allow_hyphen_values = true)]
    boot: Option<String>,
    /// How to print: short, short-iso, cat, json, verbose…
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
    /// The newest first
    #[arg(short, long, conflicts_with = "follow")]
    reverse: bool,
    #[command(flatten)]
    name: Name,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let config = sandboxes.store.load(&args.name.name)?;
    // What a virtual machine still holds back is not in the files yet. One that hangs has a journal all the same.
    if let Err(error) = sandboxes.settle(&args.name.name) {
        log::warn!("the end of the journal may be missing: {error}");
    }
    let mut arguments = arguments(args);
    if args.follow && turns::are_needed(sandboxes, &config)? {
        return turns::follow(sandboxes, &config, &arguments, print_line, is_read);
    }
    arguments.extend(args.follow.then(|| "--follow".to_owned()));
    show(journal::show(sandboxes, &config, &arguments)?)
}

fn arguments(args: &Args) -> Vec<String> {
    let value = |key: &str, value: &str| format!("--{key}={value}");
    let mut arguments = Vec::new();
    arguments.extend(args.reverse.then(|| "--reverse".to_owned()));
    arguments.extend(args.unit.iter().map(|unit| value("unit", unit)));
    arguments.extend(args.since.iter().map(|since| value("since", since)));
    arguments.extend(args.until.iter().map(|until| value("until", until)));
    arguments.extend(args.lines.iter().map(|lines| format!("--lines={lines}")));
    arguments.extend(args.boot.iter().map(|boot| match boot.as_str() {
        "" => "--boot".to_owned(),
        boot => value("boot", boot),
    }));
    arguments.extend(args.output.iter().map(|format| value("output", format)));
    arguments
}

/// Shows what a journalctl prints.
fn show(mut journalctl: Child) -> Result<()> {
    let reading = || Error::step("reading the journal");
    let errors = journalctl.stderr.take().map(|stderr| {
        thread::spawn(move || {
            for line in turns::lines(stderr).map_while(io::Result::ok) {
                log::warn!(
                    "journalctl: {}",
                    String::from_utf8_lossy(line.trim_ascii_end())
                );
            }
        })
    });
    if let Some(stdout) = journalctl.stdout.take() {
        for line in turns::lines(stdout) {
            if !print_line(&line.map_err(reading())?)? {
                // It would write on until it finds out by itself.
                let _ = journalctl.kill();
                break;
            }
        }
    }
    let status = journalctl.wait().map_err(reading())?;
    if let Some(errors) = errors {
        let _ = errors.join();
    }
    match status.code() {
        // Nobody reads on, which is no failure.
        Some(0) | None => Ok(()),
        Some(_) => Err(Error::refused(format!("journalctl failed ({status})"))),
    }
}

/// Prints a line as it is, or on a terminal without what that would obey: journalctl keeps only some of that back, only in some
/// formats, and only if it is the host's. Returns `false` once nobody reads them any more.
fn print_line(line: &[u8]) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    let written = match stdout.is_terminal() {
        true => stdout.write_all(printable(&String::from_utf8_lossy(line)).as_bytes()),
        false => stdout.write_all(line),
    };
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::step("printing")(error)),
    }
}

/// Waits for so long; false where nobody reads our standard output any more.
fn is_read(wait: Duration) -> bool {
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let stdout = io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    matches!(poll(&mut polled, wait), Ok(0) | Err(_))
}
