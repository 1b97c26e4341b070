//! `list`, `status` and `inspect`.

use serde::Serialize;

use crate::commands::output::{self, Format};
use crate::commands::service::Name;
use crate::config::{SandboxConfig, workload};
use crate::driver::{Owners, SharedDirectory};
use crate::error::Result;
use crate::service::{Sandboxes, Summary};
use crate::sys::text::printable::printable_message;

/// List sandboxes
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// List only running ones
    #[arg(short, long)]
    running: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Show the status of a sandbox and its units
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    name: Name,
}

/// Show the configuration of a sandbox
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Output format: the configuration file, or JSON with the state
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show the values of its command's variables too
    #[arg(long)]
    show_secrets: bool,
    #[command(flatten)]
    name: Name,
}

/// Number of addresses that are shown of a sandbox.
const FEW: usize = 3;

pub fn list(args: &ListArgs, sandboxes: &Sandboxes) -> Result<()> {
    let mut summaries = sandboxes.list()?;
    summaries.retain(|summary| !args.running || summary.state == "running");
    match args.format {
        Format::Json => output::print_json(&summaries),
        Format::Table => {
            // Omit the column if nothing is published.
            let has_ports = summaries.iter().any(|summary| !summary.publish.is_empty());
            let with_ports = |mut row: Vec<String>, ports: String| {
                if has_ports {
                    row.insert(4, ports);
                }
                row
            };
            let heading = ["NAME", "STATE", "DRIVER", "ADDRESSES", "RUNS"].map(str::to_owned);
            let heading = with_ports(heading.to_vec(), "PORTS".to_owned());
            let rows = summaries.into_iter().map(|summary| {
                let ports = listed(ports(&summary), ",");
                let runs = runs(&summary);
                let row = vec![
                    summary.name.to_string(),
                    match summary.outdated {
                        Some(true) => format!("{}, outdated", summary.state),
                        Some(false) | None => summary.state,
                    },
                    summary.driver,
                    few(&summary.addresses, ","),
                    runs,
                ];
                with_ports(row, ports)
            });
            output::print(&output::listing(
                &std::iter::once(heading).chain(rows).collect::<Vec<_>>(),
            ))
        }
    }
}

fn ports(summary: &Summary) -> Vec<String> {
    summary.publish.iter().map(ToString::to_string).collect()
}

/// Joins words in one column.
fn listed(words: Vec<String>, separator: &str) -> String {
    if words.is_empty() {
        return "-".to_owned();
    }
    words.join(separator)
}

/// Joins the first few words and the number of the others: root inside can have thousands of addresses.
fn few(words: &[String], separator: &str) -> String {
    let shown = words.get(..FEW).unwrap_or(words);
    let mut text = listed(shown.to_vec(), separator);
    if words.len() > FEW {
        text.push_str(&format!("{separator}+{}", words.len() - FEW));
    }
    text
}

/// Returns the command or the units.
fn runs(summary: &Summary) -> String {
    match &summary.command {
        Some(argv) => workload::command_line(argv),
        None => summary.units.join(","),
    }
}

pub fn status(args: &StatusArgs, sandboxes: &Sandboxes) -> Result<()> {
    let name = &args.name.name;
    let sandbox = sandboxes.get(name)?;
    let summary = sandbox.summary()?;
    if args.format == Format::Json {
        return output::print_json(&summary);
    }
    let mut rows = vec![
        vec!["name".into(), name.to_string()],
        vec!["state".into(), summary.state.clone()],
        vec!["driver".into(), summary.driver.clone()],
        vec!["hostname".into(), summary.hostname.clone()],
        vec!["addresses".into(), few(&summary.addresses, " ")],
        vec![
            "at boot".into(),
            if summary.enabled {
                "started"
            } else {
                "not started"
            }
            .into(),
        ],
        vec![
            "tree".into(),
            summary
                .image
                .as_ref()
                .unwrap_or(&summary.path)
                .display()
                .to_string(),
        ],
        vec!["runs".into(), runs(&summary)],
    ];
    if summary.outdated == Some(true) {
        let advice = "see 'virt-sandbox-service upgrade --check', restart it";
        rows.push(vec![
            "outdated".into(),
            format!("runs programs that the host has replaced: {advice}"),
        ]);
    }
    if !summary.publish.is_empty() {
        rows.insert(5, vec!["ports".into(), ports(&summary).join(" ")]);
    }
    let mut text = output::table(&rows);
    if let Some(failure) = &summary.failure {
        text.push_str(&format!("\n{}\n", printable_message(failure)));
    }
    if summary.state == "running" {
        let mut command = vec![
            "systemctl",
            "status",
            "--no-pager",
            "--full",
            "--lines=5",
            "--",
        ];
        command.extend(summary.units.iter().map(String::as_str));
        let shown = sandbox.enter()?.capture(&command)?;
        text.push('\n');
        text.push_str(&output::printable(&shown.stdout));
        if shown.stdout.is_empty() && !shown.success {
            let said = output::printable(&shown.stderr);
            text.push_str(&format!("its systemd does not answer yet: {said}\n"));
        }
    }
    output::print(&text)
}

pub fn inspect(args: &InspectArgs, sandboxes: &Sandboxes) -> Result<()> {
    #[derive(Serialize)]
    struct View {
        #[serde(flatten)]
        summary: Summary,
        config: SandboxConfig,
        owners: Owners,
        shared: Vec<SharedDirectory>,
    }
    let name = &args.name.name;
    let sandbox = sandboxes.get(name)?;
    let config = sandbox.config();
    let shown = match args.show_secrets {
        true => config.clone(),
        false => config.without_secrets(),
    };
    match args.format {
        Format::Table => {
            let mut text = shown.to_toml()?;
            // Only the label needs libvirt.
            if let Some(label) = sandbox.summary().ok().and_then(|it| it.label) {
                text.push_str(&format!("\n# Label: {label}\n"));
            }
            let owners = sandbox.owners()?.explained();
            text.push_str(&format!("\n# Owners in its tree: {owners}\n"));
            text.push_str("# Directories and images of the host:\n");
            for SharedDirectory {
                source,
                read_only,
                how,
            } in sandbox.sharing()?
            {
                let access = if read_only { "read-only" } else { "writable" };
                text.push_str(&format!("# {} ({access}): {how}\n", source.display()));
            }
            output::print(&text)
        }
        Format::Json => {
            let summary = sandbox.summary()?;
            let owners = sandbox.owners()?;
            let shared = sandbox.sharing()?;
            output::print_json(&View {
                summary,
                config: shown,
                owners,
                shared,
            })
        }
    }
}
