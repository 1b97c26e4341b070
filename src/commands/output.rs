//! Printing: tables for people, JSON for programs, notes and errors.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use log::{Level, LevelFilter};

use crate::error::Error;

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// A table with its columns aligned; the first row is the heading.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints to standard output. That nobody reads on is no error: `… | head` is common.
///
/// # Errors
/// Any other failure to write.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::step("printing")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Text from inside a sandbox, without what a terminal would take for a command.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && !"\n\t".contains(c) {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// Prints a value as JSON.
///
/// # Errors
/// Where it cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(Error::step("printing"))?;
    print(&format!("{text}\n"))
}

/// Sends notes and warnings to standard error, in the manner of a program; `verbose` shows more.
pub fn log_to_stderr(program: &'static str, verbose: bool) {
    let level = if verbose {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    };
    let logger = env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("virt_sandbox", level)
        .format(move |out, record| match record.level() {
            Level::Error | Level::Warn => writeln!(
                out,
                "{program}: warning: {}",
                printable(&record.args().to_string())
            ),
            Level::Info | Level::Debug | Level::Trace => {
                writeln!(out, "{program}: {}", printable(&record.args().to_string()))
            }
        })
        .try_init();
    // A program that uses the library may have a logger of its own.
    drop(logger);
}

/// A note for who watches, and nothing in a pipe or a journal.
pub fn progress(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Prints an error with its causes on one line and gives the exit status: 3 where the sandbox started but its units did not
/// come up, else 1.
#[must_use]
pub fn fail(program: &str, error: &Error) -> ExitCode {
    eprintln!("{program}: error: {}", printable(&error.told()));
    match error {
        Error::NotReady(_) => ExitCode::from(3),
        Error::Io { .. }
        | Error::Config { .. }
        | Error::Libvirt { .. }
        | Error::Refused(_)
        | Error::Interrupted
        | Error::Leaf(_)
        | Error::Step { .. } => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["NAME".to_owned(), "STATE".to_owned()],
            vec!["a".to_owned(), "running".to_owned()],
        ];
        assert_eq!(table(&rows), "NAME  STATE\na     running\n");
    }
}
