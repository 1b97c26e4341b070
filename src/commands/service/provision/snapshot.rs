//! `snapshot`.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;

use crate::commands::complete;
use crate::commands::output::{self, Format};
use crate::commands::service::Name;
use crate::commands::service::batch::cancel_on_signals;
use crate::config::SnapshotName;
use crate::error::Result;
use crate::service::Sandboxes;
use crate::service::snapshot::Snapshot;

/// Save and restore the state of a sandbox in an image
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(
    after_help = "A snapshot is a copy of the image, which shares its blocks if the host's filesystem can (btrfs, XFS), and of the \
                  configuration. It is renamed and deleted with its sandbox, and is not part of clones and archives."
)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revert(RevertArgs),
    Delete(DeleteArgs),
}

/// Make a snapshot; a running sandbox is frozen meanwhile, and its snapshot equals the state after a power cut
#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    name: Name,
    /// Name of the snapshot [default: the time in UTC]
    snapshot: Option<SnapshotName>,
}

/// List the snapshots of a sandbox, oldest first
#[derive(Debug, Args)]
struct ListArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    name: Name,
}

/// Restore a stopped sandbox and its configuration from a snapshot; later changes are lost
#[derive(Debug, Args)]
struct RevertArgs {
    #[command(flatten)]
    of: Existing,
}

/// Delete a snapshot
#[derive(Debug, Args)]
struct DeleteArgs {
    #[command(flatten)]
    of: Existing,
}

/// Argument: an existing snapshot.
#[derive(Debug, Args)]
struct Existing {
    #[command(flatten)]
    name: Name,
    /// Name of the snapshot
    #[arg(add = ArgValueCandidates::new(complete::snapshots))]
    snapshot: SnapshotName,
}

pub fn run(args: SnapshotArgs, sandboxes: &Sandboxes) -> Result<()> {
    let sandboxes = &sandboxes.cancelled_by(cancel_on_signals()?);
    match args.command {
        SnapshotCommand::Create(args) => {
            let name = &args.name.name;
            let snapshot = match args.snapshot {
                Some(snapshot) => snapshot,
                None => Snapshot::name_of_now()?,
            };
            sandboxes.get(name)?.lock()?.create_snapshot(&snapshot)?;
            output::progress(&format!("'{name}' has the snapshot '{snapshot}'"));
            Ok(())
        }
        SnapshotCommand::List(args) => list(&args, sandboxes),
        SnapshotCommand::Revert(RevertArgs { of }) => {
            let (name, snapshot) = (&of.name.name, &of.snapshot);
            sandboxes.get(name)?.lock()?.revert(snapshot)?;
            output::progress(&format!("'{name}' is as it was at '{snapshot}'"));
            Ok(())
        }
        SnapshotCommand::Delete(DeleteArgs { of }) => {
            let sandbox = sandboxes.get(&of.name.name)?.lock()?;
            sandbox.delete_snapshot(&of.snapshot)
        }
    }
}

fn list(args: &ListArgs, sandboxes: &Sandboxes) -> Result<()> {
    let snapshots = sandboxes.get(&args.name.name)?.snapshots()?;
    if args.format == Format::Json {
        return output::print_json(&snapshots);
    }
    let heading = ["SNAPSHOT", "CREATED (UTC)", "SIZE", "STATE"].map(str::to_owned);
    let rows = snapshots.iter().map(|snapshot| {
        vec![
            snapshot.name.to_string(),
            snapshot.time(),
            format!("{}M", snapshot.bytes.div_ceil(1 << 20)),
            if snapshot.facts.running {
                "running"
            } else {
                "stopped"
            }
            .to_owned(),
        ]
    });
    output::print(&output::table(
        &std::iter::once(heading.to_vec())
            .chain(rows)
            .collect::<Vec<_>>(),
    ))
}
