//! Printing: tables for people, JSON for programs, notes and errors.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use log::{Level, LevelFilter};

use crate::error::{Error, ErrorKind};
pub use crate::sys::text::printable::printable;
use crate::sys::text::printable::{printable_json, printable_line, printable_message};

/// Maximum width of a cell in a listing on a terminal.
const CELL: usize = 48;

/// Output format of a listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Formats a table; on a terminal wide cells are truncated.
#[must_use]
pub fn listing(rows: &[Vec<String>]) -> String {
    if !io::stdout().is_terminal() {
        return table(rows);
    }
    let cut = |row: &Vec<String>| row.iter().map(|cell| cut(cell, CELL)).collect();
    table(&rows.iter().map(cut).collect::<Vec<_>>())
}

/// Truncates a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// Formats a table with aligned columns; the first row is the heading. A cell is one line.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable_line(cell)).collect())
        .collect();
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
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints to standard output; on a terminal without control characters. A closed pipe is no error: `… | head` is common.
///
/// # Errors
/// Any other failure to write.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let shown = stdout.is_terminal().then(|| printable(text));
    match stdout
        .write_all(shown.as_deref().unwrap_or(text).as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::step("printing")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(Error::step("printing"))?;
    print(&format!("{}\n", printable_json(&text)))
}

/// Sets up logging of notes and warnings to standard error; `verbose` shows more.
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
                printable_message(&record.args().to_string())
            ),
            Level::Info | Level::Debug | Level::Trace => {
                writeln!(
                    out,
                    "{program}: {}",
                    printable_message(&record.args().to_string())
                )
            }
        })
        .try_init();
    // A program that uses the library may have its own logger.
    drop(logger);
}

/// Prints a progress note on a terminal, and nothing in a pipe or a journal.
pub fn progress(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{}", printable_message(text));
    }
}

/// Prints an error with its causes and returns the exit status for its kind.
#[must_use]
pub fn fail(program: &str, error: &Error) -> ExitCode {
    eprintln!("{program}: error: {}", printable_message(&error.chain()));
    ExitCode::from(exit_status(error.kind()))
}

/// Returns the exit status of `virt-sandbox-service` for a kind of error. Only failures that a script can react to have a number of
/// their own; clap takes 2 for a wrong command line.
fn exit_status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotReady => 3,
        ErrorKind::NotFound => 4,
        ErrorKind::Exists => 5,
        ErrorKind::Running => 6,
        ErrorKind::NotRunning => 7,
        ErrorKind::Busy => 8,
        ErrorKind::Permission
        | ErrorKind::Refused
        | ErrorKind::Unsupported
        | ErrorKind::Config
        | ErrorKind::Libvirt
        | ErrorKind::Interrupted
        | ErrorKind::Io
        | ErrorKind::Other => 1,
    }
}

/// Returns the lines that are wider than 80 columns in the help of a program and of its subcommands.
#[cfg(test)]
pub(super) fn too_wide(program: &clap::Command) -> Vec<String> {
    fn help(command: &mut clap::Command, wide: &mut Vec<String>) {
        let text = command.render_long_help().to_string();
        let lines = text.lines().filter(|line| line.chars().count() > 80);
        wide.extend(lines.map(|line| format!("{}: {line}", command.get_name())));
        let subcommands = command.get_subcommands_mut();
        for subcommand in subcommands.filter(|subcommand| !subcommand.is_hide_set()) {
            help(subcommand, wide);
        }
    }
    let mut program = program.clone();
    program.build();
    let mut wide = vec![];
    help(&mut program, &mut wide);
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_cut_where_it_is_too_wide() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("ééééé!", 5), "éééé…");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["NAME".to_owned(), "STATE".to_owned()],
            vec!["a".to_owned(), "running".to_owned()],
        ];
        assert_eq!(table(&rows), "NAME  STATE\na     running\n");
        let forged = [vec![
            "a\nb  running\t".to_owned(),
            "\u{202e}x\x1b[2J".to_owned(),
        ]];
        assert_eq!(table(&forged), "a?b  running?  ?x?[2J\n");
    }
}
