//! `bench`: compares virt-sandbox with its peers, as ratios of figures of one run.

mod bare;
mod libvirt;
mod measure;
mod memory;
mod peers;
mod report;
mod rows;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::rows::Benches;

/// Compares virt-sandbox with its peers; runs below `test-harness with-libvirtd`
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Program to compare
    #[arg(
        long,
        env = "VIRT_SANDBOX",
        default_value = "target/release/virt-sandbox"
    )]
    program: PathBuf,
    /// Number of figures of each side, containers
    #[arg(long, default_value_t = 10)]
    lxc: usize,
    /// Number of figures of each side, guests
    #[arg(long, default_value_t = 4)]
    vm: usize,
    /// MiB that go through a container's streams
    #[arg(long, default_value_t = 1024)]
    lxc_mib: usize,
    /// MiB that go through a guest's streams
    #[arg(long, default_value_t = 1024)]
    vm_mib: usize,
    /// Print JSON, with every figure
    #[arg(long)]
    json: bool,
    /// Only rows whose measurement or peer contains one of these words
    only: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let (benches, _directory) = Benches::prepare(&arguments.program)?;
    let mut outcomes = Vec::new();
    for row in benches.rows(arguments) {
        let name = format!("{} {}", row.what, row.peer);
        let only = &arguments.only;
        if only.is_empty() || only.iter().any(|word| name.contains(word)) {
            eprintln!("{} beside {} …", row.what, row.peer);
            outcomes.push(measure::measure(row));
        }
    }
    if arguments.json {
        let json = serde_json::to_string_pretty(&outcomes).context("writing JSON")?;
        println!("{json}");
    } else {
        report::print(&outcomes);
    }
    Ok(())
}
