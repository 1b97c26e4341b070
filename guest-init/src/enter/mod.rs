//! Running a command in a sandbox that is up:
//! `guest-init enter --pid PID --identity NAMESPACE:START --config FILE [OPTION…] -- COMMAND`.
//!
//! The host starts this program from a sealed copy in memory. It makes sure that process PID is the sandbox's first, in namespaces
//! that are the sandbox's, joins these and its cgroups, and gives up all that the sandbox may not do, *before* anything of the
//! sandbox is looked at. The command's exit status becomes its own; death by signal N is 128+N, a command that
//! is not found 127, one that cannot be run 126, and a failure of our own 125.

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

/// What is asked for.
#[derive(Debug, Default)]
struct Request {
    /// The first process of the sandbox.
    pid: u32,
    /// Identity that tells it from earlier and later processes of the same number.
    identity: Option<Identity>,
    terminal: bool,
    /// The guest config of the sandbox, a file of the host.
    config: Option<PathBuf>,
    user: Option<String>,
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    command: Vec<String>,
}

/// Runs the command and gives its exit status.
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

/// Takes a variable of the command from the environment, where it is `KEY=VALUE` behind a name of its own.
fn variable(number: &str) -> Result<(String, String)> {
    let name = format!("{}{number}", crate::ENTER_VARIABLE);
    let pair = std::env::var(&name).with_context(|| format!("reading ${name}"))?;
    split(&pair).with_context(|| format!("${name} is not KEY=VALUE"))
}

fn split(pair: &str) -> Option<(String, String)> {
    let (key, value) = pair.split_once('=')?;
    Some((key.to_owned(), value.to_owned()))
}

fn run(request: Request) -> Result<u8> {
    // Nobody inside may look at what comes from outside (ptrace(2)), nor have any of it.
    set_dumpable(false).context("hiding from the sandbox")?;
    close_other_files()?;
    let (Some(identity), Some(config)) = (request.identity, &request.config) else {
        bail!("--identity and --config are needed");
    };
    let Confined { idmap, confinement } = confine::of_config(config)?;
    let target = Target::open(request.pid, identity, idmap)?;
    let streams = Streams::of_caller(request.terminal);
    leave_keys()?;
    let bounds = target.join(&confinement)?;
    relay::run(streams, || match become_command(&request, &bounds) {
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

/// Becomes the command, in a process that is in the sandbox by now in every way.
fn become_command(request: &Request, bounds: &Bounds) -> Result<Infallible> {
    close_other_files()?;
    bounds.take_limits()?;
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
    account.become_it()?;
    set_dumpable(false).context("hiding from the sandbox")?;
    // Nobody waits for it once the process above is gone. Its own children do not inherit this.
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
