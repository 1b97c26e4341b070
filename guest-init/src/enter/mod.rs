//! `guest-init enter --pid PID --identity NAMESPACE:START --config FILE [OPTION…] -- COMMAND`: a command in a running container.
//!
//! The host starts this program from a sealed copy in memory. It checks that process PID is the first of the sandbox and in namespaces
//! of the sandbox, joins these and the cgroups, and drops all rights that the sandbox does not have, *before* it reads any file of the
//! sandbox. It exits with the status of the command: 128+N for signal N, 127 if the program is not found, 126 if it cannot be executed,
//! and 125 for a failure of its own.

mod bounds;
mod relay;
mod target;

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::unistd::chdir;

use self::bounds::Bounds;
use self::target::Target;
use crate::enter::relay::Streams;
use crate::process::account::Account;
use crate::process::confine;
use crate::process::confine::Confined;
use crate::process::{ExecError, close_other_files, leave_keys};
use crate::sys::first_process::Identity;

const OWN_FAILURE: u8 = 125;

/// Parsed command line.
#[derive(Debug, Default)]
struct Request {
    /// First process of the sandbox.
    pid: u32,
    /// Identity of that process. Other processes with the same pid have another one.
    identity: Option<Identity>,
    terminal: bool,
    /// Guest config of the sandbox, a file of the host.
    config: Option<PathBuf>,
    user: Option<String>,
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    command: Vec<String>,
}

/// Runs the command and returns its exit status.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    crate::console_log::init(false);
    match parse(arguments).and_then(run) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("virt-sandbox: {error:#}");
            ExitCode::from(OWN_FAILURE)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--pid" => request.pid = value()?.parse().context("reading --pid")?,
            "--identity" => {
                let identity = value()?.parse().map_err(anyhow::Error::msg);
                request.identity = Some(identity.context("reading --identity")?);
            }
            "--config" => request.config = Some(value()?.into()),
            "--terminal" => request.terminal = true,
            "--user" => request.user = Some(value()?.clone()),
            "--directory" => request.directory = Some(value()?.into()),
            "--env" => request.environment.push(variable(value()?)?),
            "--" => {
                request.command = arguments.cloned().collect();
                break;
            }
            other => bail!("unknown argument '{other}'"),
        }
    }
    if request.pid == 0 || request.command.is_empty() {
        bail!("--pid and a command are needed");
    }
    Ok(request)
}

/// Reads a variable of the command from our environment, where a numbered variable has `KEY=VALUE` as its value.
fn variable(number: &str) -> Result<(String, String)> {
    let name = format!("{}{number}", crate::ENTER_VARIABLE);
    let pair = std::env::var(&name).with_context(|| format!("reading ${name}"))?;
    split(&pair).with_context(|| format!("${name} is not KEY=VALUE"))
}

fn split(pair: &str) -> Option<(String, String)> {
    let (key, value) = pair.split_once('=')?;
    Some((key.to_owned(), value.to_owned()))
}

fn run(mut request: Request) -> Result<u8> {
    // 1. Processes of the sandbox must not trace this one, nor get its files (ptrace(2)).
    set_dumpable(false).context("hiding from the sandbox")?;
    close_other_files()?;
    let (Some(identity), Some(config)) = (request.identity, &request.config) else {
        bail!("--identity and --config are needed");
    };
    // 2. Open the namespaces while nothing of the sandbox is used.
    let Confined {
        idmap,
        confinement,
        environment,
    } = confine::read_config(config)?;
    // Those of the caller replace them.
    request.environment.splice(0..0, environment);
    let target = Target::open(request.pid, identity, idmap)?;
    let streams = Streams::of_caller(request.terminal);
    // 3. Drop what no namespace holds: keys, then everything that `join` drops.
    leave_keys()?;
    let bounds = target.join(&confinement)?;
    relay::run(streams, || match exec_command(&request, &bounds) {
        Ok(never) => match never {},
        Err(error) => match error.downcast_ref::<ExecError>() {
            Some(ExecError { program, source }) => {
                let status = if *source == Errno::ENOENT { 127 } else { 126 };
                (status, format!("running '{program}': {}", source.desc()))
            }
            None => (OWN_FAILURE, format!("{error:#}")),
        },
    })
}

/// Executes the command in this process, which is in the sandbox completely.
fn exec_command(request: &Request, bounds: &Bounds) -> Result<Infallible> {
    close_other_files()?;
    bounds.apply_limits()?;
    let account = Account::find(request.user.as_deref().unwrap_or("root"))?;
    let environment = account.environment("lxc-libvirt", &request.environment);
    match &request.directory {
        Some(directory) => {
            chdir(directory).with_context(|| format!("entering '{}'", directory.display()))?;
        }
        // Not every account has a home.
        None => chdir(account.home.as_str())
            .or_else(|_| chdir("/"))
            .context("entering '/'")?,
    }
    account.become_user()?;
    set_dumpable(false).context("hiding from the sandbox")?;
    // Nobody waits for the command once the parent is gone. Its children do not inherit the setting.
    crate::process::end_with_parent();
    Ok(crate::process::exec(&request.command, &environment)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_a_pid_and_a_command() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = "--pid 7 --identity 8:9 --terminal -- ls -l --pid";
        let request = parse(&words(line)).unwrap();
        let identity = Identity {
            namespace: 8,
            started: 9,
        };
        assert_eq!(request.identity, Some(identity));
        assert_eq!((request.pid, request.terminal), (7, true));
        assert_eq!(split("A=b=c"), Some(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(split("A"), None);
        assert_eq!(request.command, ["ls", "-l", "--pid"]);
        for bad in [
            "--pid 7",
            "-- ls",
            "--pid x -- ls",
            "--pid -1 -- ls",
            "--pid 7 --identity 8 -- ls",
            "--wat -- ls",
            // Everybody could see it.
            "--pid 7 --env A=b -- ls",
        ] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }
}
