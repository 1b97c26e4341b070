//! `test-harness`: the harness as a command.

use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};
use test_harness::libvirtd::Libvirtd;
use test_harness::user::UserDirectory;
use test_harness::{namespace, programs, serve, whole, zoo};

/// Runs commands and services against a private libvirtd
#[derive(Debug, Parser)]
#[command(name = "test-harness")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run COMMAND with a private libvirtd as libvirt's default and private state directories, then stop it
    WithLibvirtd {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run COMMAND as an ordinary user whose `qemu:///session` is private; below with-libvirtd
    AsUser {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Create each service of the zoo and ask whether it answers
    Zoo(zoo::Options),
    /// Boot a whole host in a virtual machine and run scripts in it
    Host(whole::Options),
    /// Run a private libvirtd until SIGTERM
    #[command(hide = true)]
    Serve {
        /// The daemon's directory
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    run(Arguments::parse().action).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::WithLibvirtd { command } => with_libvirtd(&command),
        Action::AsUser { command } => as_user(&command),
        Action::Zoo(options) => zoo::run(&options),
        Action::Host(options) => whole::run(&options),
        Action::Serve { dir } => serve::serve(&dir).map(|()| ExitCode::SUCCESS),
    }
}

fn with_libvirtd(command: &[String]) -> Result<ExitCode> {
    // With a strict umask the ordinary user could not read the files that tests make for it.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let programs = programs::Directory::make()?;
    namespace::enter_private_state(programs.path())?;
    let daemon = Libvirtd::start(&std::env::current_exe().context("finding this program")?)?;
    let status = Command::new(&command[0])
        .args(&command[1..])
        .envs(daemon.environment())
        .envs(programs.environment()?)
        .status()
        .with_context(|| format!("running '{}'", command[0]))?;
    daemon.stop()?;
    Ok(exit_code(status))
}

fn as_user(command: &[String]) -> Result<ExitCode> {
    let status = UserDirectory::from_environment()?
        .command(&command[0])
        .args(&command[1..])
        .status()
        .with_context(|| format!("running '{}'", command[0]))?;
    Ok(exit_code(status))
}

/// Returns the exit code; 128 + n for a signal, as a shell does.
fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::from(128), ExitCode::from)
}
