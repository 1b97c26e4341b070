//! `snapshot`.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;

use super::{Name, lifecycle};
use crate::commands::complete;
use crate::commands::output::{self, Format};
use crate::config::SnapshotName;
use crate::error::Result;
use crate::service::Sandboxes;
use crate::service::snapshot::Snapshot;

/// Keep the state of a sandbox whose tree is in an image, and go back to it
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
#[command(
    after_help = "A snapshot is a copy of the image, which shares its blocks where the host's filesystem can (btrfs, XFS), and of the \
                  configuration. It goes with its sandbox: renamed and deleted with it, but in no clone or archive of it."
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

/// Make a snapshot; a sandbox that runs is frozen meanwhile, and its snapshot has what a power cut would leave
#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    name: Name,
    /// Name of the snapshot [default: the time in UTC]
    snapshot: Option<SnapshotName>,
}

/// List the snapshots of a sandbox, the oldest first
#[derive(Debug, Args)]
struct ListArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    name: Name,
}

/// Make a sandbox that is stopped what it was at a snapshot, its configuration as well; what was since is lost
#[derive(Debug, Args)]
struct RevertArgs {
    #[command(flatten)]
    of: Existing,
}

/// Remove a snapshot
#[derive(Debug, Args)]
struct DeleteArgs {
    #[command(flatten)]
    of: Existing,
}

/// A snapshot that there is.
#[derive(Debug, Args)]
struct Existing {
    #[command(flatten)]
    name: Name,
    /// Name of the snapshot
    #[arg(add = ArgValueCandidates::new(complete::snapshots))]
    snapshot: SnapshotName,
}

pub fn run(args: SnapshotArgs, sandboxes: &Sandboxes) -> Result<()> {
    let sandboxes = &sandboxes.cancelled_by(lifecycle::interruption()?);
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
