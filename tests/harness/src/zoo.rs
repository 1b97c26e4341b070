//! The zoo: real services of Debian, each created from nothing but its unit.
//!
//! Each row of `tests/zoo/zoo.tsv` and `more.tsv` is installed, created, probed with its own client, and removed
//! without a trace. This code knows no service; the tables describe them.

mod animal;
mod packages;
mod report;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use table::Row;

use crate::libvirtd::{URI_VARIABLE, qemu_uri};

/// Options of `test-harness zoo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rows to run, by name [default: all]
    names: Vec<String>,
    /// Run only the first N rows of the tables
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// End at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Do not install packages; they are installed already
    #[arg(long)]
    no_install: bool,
    /// Install the packages of the rows that have no conflicts, and do nothing else
    #[arg(long, conflicts_with = "no_install")]
    only_install: bool,
    /// Tables of services
    #[arg(long, default_values = ["tests/zoo/zoo.tsv", "tests/zoo/more.tsv"])]
    table: Vec<PathBuf>,
    /// Write the results into the table of this file, with --machines the second
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The script that installs packages
    #[arg(long, default_value = "tests/setup/packages.sh")]
    installer: PathBuf,
    /// Directory for the output of failed rows
    #[arg(long, default_value = "target/zoo")]
    output: PathBuf,
    /// Use virtual machines
    #[arg(long)]
    machines: bool,
    /// The program under test [default: the one beside this program]
    #[arg(long)]
    program: Option<PathBuf>,
}

/// Runs the zoo, and prints a line for each row and the totals.
///
/// # Errors
///
/// The table cannot be read, or a named row is not in it. A service that fails is no error:
/// it is reported with exit code 1.
pub fn run(options: &Options) -> Result<ExitCode> {
    let mut all = Vec::new();
    for table in &options.table {
        let read = std::fs::read_to_string(table).map_err(anyhow::Error::from);
        let rows = read.and_then(|text| table::parse(&text));
        all.extend(rows.with_context(|| format!("reading '{}'", table.display()))?);
    }
    let rows = select(all.clone(), &options.names, options.first)?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .context("finding this program")?
            .with_file_name("virt-sandbox-service"),
    };
    let visitor = animal::Visitor {
        program,
        output: options.output.clone(),
        uri: match options.machines {
            true => qemu_uri()?,
            false => std::env::var(URI_VARIABLE).unwrap_or_default(),
        },
        pace: if options.machines { 4 } else { 1 },
    };
    let installer = (!options.no_install).then_some(options.installer.as_path());

    if let Some(installer) = installer {
        // One transaction is much faster than many. Rows with conflicts are installed later. A
        // failure here occurs again at its own row.
        let free: Vec<&str> = rows
            .iter()
            .filter(|row| row.conflicts.is_empty())
            .flat_map(Row::needs)
            .collect();
        let installed = packages::install(installer, &free);
        if options.only_install {
            return installed.map(|()| ExitCode::SUCCESS);
        }
        if let Err(error) = installed {
            println!("installing all at once: {error:#}");
        }
    }

    let kind = match options.machines {
        true => report::Kind::Machines,
        false => report::Kind::Containers,
    };
    let mut sum = report::Sum::default();
    println!("{}", report::HEADER);
    for row in &rows {
        let outcome = installer.map_or(Ok(()), |installer| packages::prepare(installer, row));
        let outcome = outcome.and_then(|()| packages::set_up(row)).map_or_else(
            |error| animal::Outcome::failed(format!("{error:#}")),
            |()| visitor.visit(row),
        );
        println!("{}", report::line(row, &outcome));
        sum.add(row, &outcome);
        // After each row: a run can be interrupted.
        if let Some(path) = &options.record {
            record(path, kind, &all, row, &outcome)
                .with_context(|| format!("recording in '{}'", path.display()))?;
        }
        if options.fail_fast && !outcome.passed() {
            break;
        }
    }
    println!("{sum}");
    Ok(if sum.clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn record(
    path: &Path,
    kind: report::Kind,
    all: &[Row],
    row: &Row,
    outcome: &animal::Outcome,
) -> Result<()> {
    let mut record = report::Record::parse(&std::fs::read_to_string(path)?);
    record.add(kind, row, outcome)?;
    std::fs::write(path, record.write(all))?;
    Ok(())
}

fn select(rows: Vec<Row>, names: &[String], first: Option<usize>) -> Result<Vec<Row>> {
    for name in names {
        if !rows.iter().any(|row| &row.name == name) {
            bail!("no row '{name}' in the zoo");
        }
    }
    let chosen = rows
        .into_iter()
        .filter(|row| names.is_empty() || names.contains(&row.name));
    Ok(chosen.take(first.unwrap_or(usize::MAX)).collect())
}
