//! `doctor`.

use std::path::Path;
use std::process::ExitCode;

use crate::commands::output::{self, Format};
use crate::doctor::{self, Report, Subject};
use crate::error::{Error, Result};
use crate::service::Sandboxes;

use crate::sys::process::command;

/// Show what this host can run, what it lacks, and how to mend it
///
/// Exits with 1 if the host can run neither containers nor virtual machines. Nothing is changed; with --run, a command
/// starts in a throw-away container and in a throw-away virtual machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also run 'true' in a sandbox of each kind
    #[arg(long)]
    run: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<ExitCode> {
    let mut report = doctor::examine(sandboxes)?;
    if args.run {
        for (subject, uri) in [
            (Subject::Containers, "lxc:///"),
            (Subject::Machines, "qemu:///system"),
        ] {
            report.add_trial(subject, try_out(uri));
        }
    }
    match args.format {
        Format::Json => output::print_json(&report)?,
        Format::Table => output::print(&described(&report))?,
    }
    let kinds = [Subject::Containers, Subject::Machines];
    Ok(match kinds.iter().any(|kind| report.can_run(*kind)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs a command in a throw-away sandbox; returns why that failed.
fn try_out(uri: &str) -> std::result::Result<(), String> {
    let program = command::current_exe()
        .map_err(Error::step("finding this program"))
        .map_err(|error| error.chain())?;
    let program = program.with_file_name("virt-sandbox");
    let program = program
        .to_str()
        .filter(|program| Path::new(program).exists());
    let program = program.ok_or("there is no virt-sandbox beside this program")?;
    match command::capture(program, ["-c", uri, "--", "true"]) {
        Ok(captured) if captured.success => Ok(()),
        Ok(captured) => Err(captured.stderr),
        Err(error) => Err(error.to_string()),
    }
}

fn described(report: &Report) -> String {
    let mut rows = vec![
        ["ABOUT", "CHECK", "", "STATE"]
            .map(ToOwned::to_owned)
            .to_vec(),
    ];
    rows.extend(report.checks.iter().map(|check| {
        vec![
            check.subject.as_str().to_owned(),
            check.name.to_owned(),
            check.level.as_str().to_owned(),
            check.state.clone(),
        ]
    }));
    let advice = report.checks.iter().filter_map(|check| {
        let advice = check.advice.as_ref()?;
        let (subject, name) = (check.subject.as_str(), check.name);
        Some(format!("{subject}, {name}: {advice}\n"))
    });
    let advice: String = advice.collect();
    let can = |subject| match report.can_run(subject) {
        true => "yes",
        false => "no",
    };
    format!(
        "{} ({}, Linux {})\n\n{}\n{advice}{}containers: {}\nvirtual machines: {}\n",
        match report.distribution.pretty_name.as_str() {
            "" => "unknown distribution",
            name => name,
        },
        report.arch,
        report.kernel,
        output::table(&rows),
        if advice.is_empty() { "" } else { "\n" },
        can(Subject::Containers),
        can(Subject::Machines),
    )
}
