//! `logs`.

use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ChildStdout;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::commands::output;
use crate::commands::service::Name;
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::service::inspect::journal::{self, follow};
use crate::sys::text::printable::printable;

/// Show the journal of a running or stopped sandbox
#[derive(Debug, clap::Args)]
#[command(after_help = "Times, formats and boots are those of journalctl(1).")]
pub struct Args {
    /// Follow the journal
    #[arg(short, long)]
    follow: bool,
    /// Show only this unit; may be given more than once
    #[arg(short, long, value_name = "UNIT")]
    unit: Vec<String>,
    /// Start at this time: "2026-01-31 12:00", "10 min ago", -1h
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// End at this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Show only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,
    /// Show only the last boot; -b=-1 is the one before
    #[arg(short, long, value_name = "BOOT", num_args = 0..=1, require_equals = true, default_missing_value = "", allow_hyphen_values = true)]
    boot: Option<String>,
    /// Output format: short, short-iso, cat, json, verbose…
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
    /// Show the newest entries first
    #[arg(short, long, conflicts_with = "follow")]
    reverse: bool,
    #[command(flatten)]
    name: Name,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let sandbox = sandboxes.get(&args.name.name)?;
    // Sync a virtual machine, whose last entries are not in the files yet. If it hangs, show what there is.
    if let Err(error) = sandbox.sync() {
        log::warn!("the end of the journal may be missing: {error}");
    }
    let mut arguments = arguments(args);
    let printably = io::stdout().is_terminal();
    if args.follow && follow::is_polled(&sandbox)? {
        let show = |line: &[u8]| print_bytes(line, printably);
        return follow::follow(&sandbox, &arguments, show, is_read);
    }
    arguments.extend(args.follow.then(|| "--follow".to_owned()));
    let mut journalctl = journal::read(&sandbox, &arguments)?;
    let shown = journalctl.stdout.take().map_or(Ok(()), show);
    if !is_read(Duration::ZERO) {
        let _ = journalctl.kill();
        let _ = journalctl.wait();
        return shown;
    }
    shown?;
    let status = journalctl
        .wait()
        .map_err(Error::step("reading the journal"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::refused(format!("journalctl failed ({status})"))),
    }
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

/// Maximum length of a line that is kept in memory, in bytes.
const LONGEST: usize = 1 << 20;

/// Copies the output of journalctl until the reader is gone; on a terminal without control characters.
pub fn show(mut from: ChildStdout) -> Result<()> {
    let printably = io::stdout().is_terminal();
    let mut buffer = vec![0; 1 << 16];
    let mut part = Vec::new();
    while is_more(&from) {
        let read = from
            .read(&mut buffer)
            .map_err(Error::step("reading the journal"))?;
        part.extend_from_slice(&buffer[..read]);
        let end = match part.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if read == 0 || part.len() > LONGEST => part.len(),
            None => continue,
        };
        print_bytes(&part[..end], printably)?;
        part.drain(..end);
        if read == 0 {
            break;
        }
    }
    Ok(())
}

/// Waits for more output; returns false if nobody reads our standard output any more.
fn is_more(from: &ChildStdout) -> bool {
    let stdout = io::stdout();
    let mut polled = [
        PollFd::new(from.as_fd(), PollFlags::POLLIN),
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
    ];
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return polled[1].any() != Some(true),
        }
    }
}

/// Prints bytes verbatim, or without control characters.
fn print_bytes(bytes: &[u8], printably: bool) -> Result<()> {
    if printably {
        return output::print(&printable(&String::from_utf8_lossy(bytes)));
    }
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(bytes);
    match printed.and_then(|()| stdout.flush()) {
        // A closed pipe means that nobody waits for more.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::step("printing")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits for the given time; returns false if nobody reads our standard output any more.
fn is_read(wait: Duration) -> bool {
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    let stdout = io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    matches!(poll(&mut polled, wait), Ok(0) | Err(_))
}
