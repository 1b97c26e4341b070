//! `virt-sandbox-service`.
//!
//! A new subcommand needs:
//! * its arguments and a function here, in the file of its subject; a variant of `Command` and its arm in `run`;
//! * the operation in `src/service`: on `Sandbox` if it only reads, on `LockedSandbox` if it changes something;
//! * a page with examples in `xtask/manual/pages`, a row in `docs/getting-started.md`, a line in NEWS.md;
//! * its row in `tests/service/drivers.rs` (`VERBS`) and in the list of `tests/service/errors.rs`.

mod batch;
mod completions;
mod guest;
mod inspect;
mod internal;
mod lifecycle;
mod provision;
mod settings;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::ArgValueCandidates;

use crate::commands::{complete, output};
use crate::config::SandboxName;
use crate::driver::Driver;
use crate::driver::connection::{CONTAINERS, Connection};
use crate::error::{Error, ErrorKind, Result};
use crate::service::Sandboxes;
use crate::service::image::HOLD;
use crate::sys::process::confined;

const PROGRAM: &str = "virt-sandbox-service";

/// Heading of options that every subcommand has.
const GLOBAL: &str = "Global options";

/// Run services of this host in sandboxes
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 80, help_expected = true)]
#[command(after_help = "Exit status:\n  \
                  0  success\n  \
                  1  any other failure\n  \
                  2  wrong command line\n  \
                  3  the units of the sandbox did not come up, or it does not answer\n  \
                  4  there is no such sandbox, snapshot, unit, package or network\n  \
                  5  there is something of that name already\n  \
                  6  the sandbox is running\n  \
                  7  the sandbox is not running\n  \
                  8  something else uses it at the moment; try again\n\n\
                  Of several sandboxes, the first failure counts. 'execute' and 'connect' exit \
                  with the status of the command, or with 125 for a failure of their own; 'run' \
                  exits with the status of a command that was to run once.")]
pub struct Cli {
    /// libvirt connection of a new sandbox ('create', 'import'): lxc:/// for a container, qemu:///system for a virtual machine
    /// [default: $LIBVIRT_DEFAULT_URI if it is one of these, else lxc:/// if libvirt has it, else qemu:///system]
    #[arg(short, long, value_name = "URI", global = true, help_heading = GLOBAL)]
    connect: Option<String>,
    /// Print more messages
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<provision::create::Args>),
    Clone(provision::clone::Args),
    Rename(provision::rename::Args),
    Export(provision::archive::ExportArgs),
    Import(provision::archive::ImportArgs),
    Start(lifecycle::StartArgs),
    Stop(lifecycle::StopArgs),
    /// Restart sandboxes
    Restart(lifecycle::StartArgs),
    Reload(lifecycle::ReloadArgs),
    Enable(lifecycle::EnableArgs),
    Disable(lifecycle::DisableArgs),
    Set(settings::set::Args),
    Snapshot(provision::snapshot::SnapshotArgs),
    Upgrade(provision::upgrade::Args),
    Edit(settings::edit::Args),
    Delete(provision::delete::Args),
    Repair(provision::repair::Args),
    List(inspect::show::ListArgs),
    Status(inspect::show::StatusArgs),
    Inspect(inspect::show::InspectArgs),
    Stats(inspect::stats::Args),
    Top(inspect::top::Args),
    Logs(inspect::logs::Args),
    Execute(guest::execute::ExecuteArgs),
    Connect(guest::execute::ConnectArgs),
    Rotate(guest::rotate::Args),
    Security(inspect::security::Args),
    Doctor(inspect::doctor::Args),
    Run(lifecycle::run::Args),
    #[command(hide = true)]
    Forward(internal::ForwardArgs),
    #[command(name = HOLD, hide = true)]
    HoldImage(internal::HoldArgs),
    #[command(name = confined::SUBCOMMAND, hide = true)]
    ReadConfined(internal::ReadArgs),
    Completions(completions::Args),
}

/// Argument: one sandbox.
#[derive(Debug, clap::Args)]
struct Name {
    /// Name of the sandbox
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    name: SandboxName,
}

/// Argument: one or more sandboxes.
#[derive(Debug, clap::Args)]
struct Names {
    /// Names of sandboxes
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(complete::sandboxes))]
    names: Vec<SandboxName>,
}

/// Parses the command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    super::restrict_umask();
    complete::answer(Cli::command);
    let cli = Cli::parse();
    output::log_to_stderr(PROGRAM, cli.verbose);
    match run(cli) {
        Ok(status) => status,
        Err(error) => output::fail(PROGRAM, &error),
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    if let Command::Completions(args) = &cli.command {
        completions::run(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(
            ErrorKind::Permission,
            "sandboxes of services are made and run by root; use sudo",
        ));
    }
    if let Command::HoldImage(args) = &cli.command {
        return internal::hold(args).map(|()| ExitCode::SUCCESS);
    }
    if let Command::ReadConfined(args) = &cli.command {
        return internal::read_confined(args).map(|()| ExitCode::SUCCESS);
    }
    let makes_new = matches!(cli.command, Command::Create(_) | Command::Import(_));
    let sandboxes = Sandboxes::new(&connection(cli.connect, makes_new)?);
    if let Command::Doctor(args) = &cli.command {
        // It examines the host as it is.
        return inspect::doctor::run(args, &sandboxes);
    }
    if let Command::Repair(args) = &cli.command {
        return provision::repair::run(args, &sandboxes);
    }
    sandboxes.recover()?;
    let done = match cli.command {
        Command::Create(args) => provision::create::run(*args, &sandboxes),
        Command::Clone(args) => provision::clone::run(args, &sandboxes),
        Command::Rename(args) => provision::rename::run(&args, &sandboxes),
        Command::Export(args) => provision::archive::export(&args, &sandboxes),
        Command::Import(args) => provision::archive::import(args, &sandboxes),
        Command::Start(args) => return lifecycle::start(&args, &sandboxes),
        Command::Stop(args) => return lifecycle::stop(&args, &sandboxes),
        Command::Restart(args) => return lifecycle::restart(&args, &sandboxes),
        Command::Reload(args) => return lifecycle::reload(&args, &sandboxes),
        Command::Set(args) => settings::set::run(&args, &sandboxes),
        Command::Edit(args) => settings::edit::run(&args, &sandboxes),
        Command::Snapshot(args) => provision::snapshot::run(args, &sandboxes),
        Command::Stats(args) => inspect::stats::run(&args, &sandboxes),
        Command::Upgrade(args) => return provision::upgrade::run(&args, &sandboxes),
        Command::Enable(args) => return lifecycle::enable(&args, &sandboxes),
        Command::Disable(args) => return lifecycle::disable(&args, &sandboxes),
        Command::Top(args) => inspect::top::run(&args, &sandboxes),
        Command::Delete(args) => return provision::delete::run(&args, &sandboxes),
        Command::Repair(args) => return provision::repair::run(&args, &sandboxes),
        Command::List(args) => inspect::show::list(&args, &sandboxes),
        Command::Status(args) => inspect::show::status(&args, &sandboxes),
        Command::Inspect(args) => inspect::show::inspect(&args, &sandboxes),
        Command::Logs(args) => inspect::logs::run(&args, &sandboxes),
        Command::Rotate(args) => return guest::rotate::run(&args, &sandboxes),
        Command::Security(args) => inspect::security::run(&args, &sandboxes),
        Command::Doctor(args) => return inspect::doctor::run(&args, &sandboxes),
        Command::Execute(args) => return Ok(guest::execute::execute(args, &sandboxes)),
        Command::Connect(args) => return Ok(guest::execute::connect(&args, &sandboxes)),
        Command::HoldImage(args) => internal::hold(&args),
        Command::ReadConfined(args) => internal::read_confined(&args),
        Command::Run(args) => return lifecycle::run::run(&args, &sandboxes),
        Command::Forward(args) => internal::forward(&args, &sandboxes),
        Command::Completions(args) => completions::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Returns the requested connection, which must be one of this host that can keep sandboxes. For new ones without a request it is one
/// that libvirt has a driver for.
fn connection(asked: Option<String>, makes_new: bool) -> Result<String> {
    let from_environment = || {
        let uri = std::env::var("LIBVIRT_DEFAULT_URI").ok();
        uri.filter(|uri| Driver::of_service(uri).is_ok())
    };
    if let Some(uri) = asked.or_else(from_environment) {
        Driver::of_service(&uri)?;
        return Ok(uri);
    }
    let containers = Connection::parse(CONTAINERS)?;
    let substitute = makes_new.then(|| containers.substitute()).flatten();
    if let Some(machines) = &substitute {
        log::warn!(
            "libvirt has no driver for containers on this host, so '{}' is used; -c chooses a connection",
            machines.uri
        );
    }
    Ok(substitute.unwrap_or(containers).uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert_eq!(output::too_wide(&Cli::command()), Vec::<String>::new());
    }

    #[test]
    fn only_daemons_of_this_host_are_served() {
        for good in [
            "lxc:///",
            "lxc:///system",
            "lxc:///system?socket=/run/x",
            "lxc+unix:///system?socket=/x",
            "qemu:///system",
            "qemu:///system?socket=/run/x",
        ] {
            assert!(connection(Some(good.to_owned()), true).is_ok(), "{good}");
        }
        for bad in [
            "qemu:///session",
            "qemu:///embed",
            "qemu://far/system",
            "lxc://far/",
            "lxc+ssh://far/",
            "xen:///",
            "",
        ] {
            assert!(connection(Some(bad.to_owned()), true).is_err(), "{bad}");
        }
    }
}
