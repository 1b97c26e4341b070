//! `execute` and `connect`.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use crate::commands::output;
use crate::commands::service::{Name, PROGRAM};
use crate::driver::ExecOptions;
use crate::error::{Error, Result};
use crate::service::Sandboxes;

/// Run a command in a running sandbox
#[derive(Debug, clap::Args)]
pub struct ExecuteArgs {
    /// Give the command a terminal [default: if standard input and output are terminals]
    #[arg(short, long, overrides_with = "no_tty")]
    tty: bool,
    /// Do not give the command a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// User of the sandbox to run it as, by name or number
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory [default: the user's home]
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<std::path::PathBuf>,
    /// Set a variable of the command
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Set variables from a file with NAME=VALUE on each line; --env overrides them; may be given more than once
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Refused: it is an option of libvirt-sandbox
    #[arg(short = 'N', long, hide = true)]
    noseclabel: bool,
    #[command(flatten)]
    name: Name,
    /// Command with its arguments; looked up in the PATH of the sandbox
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Open a shell in a running sandbox
#[derive(Debug, clap::Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    name: Name,
}

/// Exit status of failures of this program, as in podman-exec(1).
const OWN_FAILURE: u8 = 125;

pub fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(Error::refused(format!("'{text}' is not KEY=VALUE"))),
    }
}

pub fn execute(args: ExecuteArgs, sandboxes: &Sandboxes) -> ExitCode {
    if args.noseclabel {
        return failed(&Error::refused(
            "a command in a sandbox always has the sandbox's security label; leave out --noseclabel",
        ));
    }
    let environment = match crate::commands::environment(&args.env_file) {
        Ok(environment) => environment,
        Err(error) => return failed(&error),
    };
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let how = ExecOptions {
        terminal: args.tty || (is_terminal && !args.no_tty),
        user: args.user,
        directory: args.workdir,
        environment: environment.into_iter().chain(args.env).collect(),
    };
    enter(&args.name, how, &args.command, sandboxes)
}

pub fn connect(args: &ConnectArgs, sandboxes: &Sandboxes) -> ExitCode {
    let how = ExecOptions {
        terminal: io::stdin().is_terminal(),
        ..ExecOptions::default()
    };
    // Use bash, or else the shell that every system has.
    let shell = "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi";
    enter(
        &args.name,
        how,
        &["/bin/sh", "-c", shell].map(str::to_owned),
        sandboxes,
    )
}

/// Runs a command inside; does not return if the process can become the command.
fn enter(name: &Name, mut how: ExecOptions, command: &[String], sandboxes: &Sandboxes) -> ExitCode {
    if how.terminal
        && let Ok(terminal) = std::env::var("TERM")
    {
        how.environment.insert(0, ("TERM".to_owned(), terminal));
    }
    let done = sandboxes
        .get(&name.name)
        .and_then(|sandbox| sandbox.enter())
        .and_then(|inside| {
            let doing = || format!("entering '{}'", name.name);
            let executed = inside.execute(&how, command);
            executed.map_err(|error| Error::step(doing())(error))
        });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    let _ = output::fail(PROGRAM, error);
    ExitCode::from(OWN_FAILURE)
}
