//! `security`.

use clap_complete::ArgValueCandidates;

use crate::commands::complete;
use crate::commands::output::{self, Format};
use crate::config::SandboxName;
use crate::error::Result;
use crate::service::Sandboxes;
use crate::service::inspect::security::{Report, share};

/// Show the exposure of the host to sandboxes, from 0 (best) to 10 (worst)
///
/// Each check shows its share of the exposure, and how to improve it. The words are those of 'systemd-analyze
/// security', which rates what a unit may do to its system, not what a sandbox may do to its host.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show all checks of this sandbox [default: one line for each sandbox]
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    name: Option<SandboxName>,
}

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => sandboxes.list()?.into_iter().map(|one| one.name).collect(),
    };
    let reports: Vec<Report> = (names
        .iter()
        .map(|name| sandboxes.get(name).and_then(|sandbox| sandbox.security())))
    .collect::<Result<_>>()?;
    let cells = |cells: [&str; 3]| cells.map(ToOwned::to_owned).to_vec();
    match (args.format, args.name.is_some(), reports.as_slice()) {
        (Format::Json, true, [report]) => output::print_json(report),
        (Format::Json, ..) => output::print_json(&reports),
        (Format::Table, true, [report]) => output::print(&described(report)),
        (Format::Table, ..) => {
            let rows = reports.iter().map(|report| {
                cells([
                    report.name.as_str(),
                    &format!("{:.1}", report.exposure),
                    report.level,
                ])
            });
            let heading = std::iter::once(cells(["NAME", "EXPOSURE", "LEVEL"]));
            output::print(&output::table(&heading.chain(rows).collect::<Vec<_>>()))
        }
    }
}

fn described(report: &Report) -> String {
    let heading = ["CHECK", "STATE", "EXPOSURE", "BETTER"];
    let mut rows = vec![heading.map(ToOwned::to_owned).to_vec()];
    rows.extend(report.checks.iter().map(|check| {
        vec![
            check.name.to_owned(),
            check.state.clone(),
            format!("{:.1}", share(check, &report.checks)),
            check.advice.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    format!(
        "{}\noverall exposure of the host to {}: {:.1} ({})\n",
        output::table(&rows),
        report.name,
        report.exposure,
        report.level
    )
}
