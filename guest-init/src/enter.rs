//! Running a command in a sandbox that is up: `guest-init enter --pid PID [OPTION…] -- COMMAND`.
//!
//! The host starts this program from a sealed copy in memory. It joins the namespaces and cgroups of the
//! sandbox's PID 1 and gives up every capability that PID 1 cannot have, *before* anything of the
//! sandbox is run. The command's exit status becomes its own; death by signal N is 128+N, a command that
//! is not found 127, one that cannot be run 126, and a failure of our own 125.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::unistd::chdir;

use crate::account::Account;
use crate::label::Label;
use crate::process::{ExecError, close_other_files};
use crate::seccomp::Program;
use crate::{confine, membership, relay};

const OWN_FAILURE: u8 = 125;

/// What is asked for.
#[derive(Debug, Default)]
struct Request {
    pid: i32,
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
    if request.pid <= 0 || request.command.is_empty() {
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
    let confinement = request.config.as_deref().map(confine::of_config);
    let confinement = confinement.transpose()?.unwrap_or_default();
    let target = Target::open(request.pid)?;
    if let Some(root) = target.root {
        crate::subordinate::give_pipes([0, 1, 2], root);
    }
    target.join(confinement.filter.as_ref())?;

    let account = Account::find(request.user.as_deref().unwrap_or("root"))?;
    let environment = account.environment("lxc-libvirt", &request.environment);
    let command = request.command;

    relay::run(request.terminal, || {
        let prepare = || -> Result<()> {
            close_other_files()?;
            match &request.directory {
                Some(directory) => chdir(directory)
                    .with_context(|| format!("entering '{}'", directory.display()))?,
                // Not every account has a home.
                None => chdir(account.home.as_str())
                    .or_else(|_| chdir("/"))
                    .context("entering '/'")?,
            }
            account.become_it()
        };
        if let Err(error) = prepare() {
            return (OWN_FAILURE, format!("{error:#}"));
        }
        match crate::process::exec(&command, &environment) {
            Ok(never) => match never {},
            Err(ExecError { program, source }) => {
                let status = if source == Errno::ENOENT { 127 } else { 126 };
                (status, format!("running '{program}': {}", source.desc()))
            }
        }
    })
}

/// The process whose sandbox is entered.
struct Target {
    namespaces: Vec<(CloneFlags, File)>,
    cgroup_files: Vec<PathBuf>,
    /// The host's id of its root, if it has a user namespace of its own.
    root: Option<u32>,
    bounding: u64,
    label: Option<Label>,
}

/// Namespaces in the order they are entered: the one of mounts comes last, since files of `/proc` are
/// needed until then and it changes the root.
const NAMESPACES: [(&str, CloneFlags); 6] = [
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

impl Target {
    fn open(pid: i32) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| {
            let path = proc.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading '{}'", path.display()))
        };
        let mut namespaces = Vec::new();
        for (name, flag) in NAMESPACES {
            let path = proc.join("ns").join(name);
            let doing = || format!("opening '{}'", path.display());
            namespaces.push((flag, File::open(&path).with_context(doing)?));
        }
        // A user namespace other than ours owns the rest; it is entered first.
        let (theirs, ours) = (proc.join("ns/user"), PathBuf::from("/proc/self/ns/user"));
        let identify = |path: &PathBuf| {
            fs::read_link(path).with_context(|| format!("reading '{}'", path.display()))
        };
        let mut root = None;
        if identify(&theirs)? != identify(&ours)? {
            let file =
                File::open(&theirs).with_context(|| format!("opening '{}'", theirs.display()))?;
            namespaces.insert(0, (CloneFlags::CLONE_NEWUSER, file));
            // user_namespaces(7): the id inside, that outside, and how many.
            let map = read("uid_map")?;
            let mut lines = map.lines().map(|line| line.split_whitespace());
            root = lines.find_map(|mut line| match line.next()? {
                "0" => line.next()?.parse().ok(),
                _ => None,
            });
        }
        let bounding = read("status")?
            .lines()
            .find_map(|line| {
                line.strip_prefix("CapBnd:")
                    .map(str::trim)
                    .map(str::to_owned)
            })
            .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
            .ok_or_else(|| anyhow!("reading '{}': no CapBnd", proc.join("status").display()))?;
        let mounted =
            fs::read_to_string("/proc/self/mountinfo").context("reading '/proc/self/mountinfo'")?;
        let cgroup_files = membership::parse(&read("cgroup")?)
            .iter()
            .filter_map(|membership| membership::procs_file(membership, &mounted))
            .collect();
        Ok(Self {
            namespaces,
            cgroup_files,
            root,
            bounding,
            label: Label::of_process(pid)?,
        })
    }

    fn join(&self, filter: Option<&Program>) -> Result<()> {
        // The /proc of the sandbox could be anything.
        if let Some(label) = &self.label {
            label.set_for_exec()?;
        }
        for path in &self.cgroup_files {
            fs::write(path, "0")
                .with_context(|| format!("joining the cgroup of '{}'", path.display()))?;
        }
        for (flag, file) in &self.namespaces {
            setns(file, *flag).with_context(|| format!("entering the sandbox ({flag:?})"))?;
        }
        chdir("/").context("entering '/'")?;
        if self.root.is_some() {
            // Nobody's until now.
            crate::subordinate::become_root()?;
        }
        // It takes CAP_SYS_ADMIN, which may go with the rest.
        filter.map_or(Ok(()), crate::filter::install)?;
        for capability in caps::all() {
            if self.bounding & capability.bitmask() == 0 {
                caps::drop(None, CapSet::Inheritable, capability)?;
                caps::drop(None, CapSet::Bounding, capability)
                    .with_context(|| format!("giving up {capability}"))?;
            }
        }
        // The bounding set counts at execve(2) only; until then a process of the sandbox could trace us.
        let granted = |set| -> Result<CapsHashSet> {
            let held = caps::read(None, set)?.into_iter();
            Ok(held
                .filter(|capability| self.bounding & capability.bitmask() != 0)
                .collect())
        };
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &granted(set)?).context("giving up capabilities")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_a_pid_and_a_command() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let request = parse(&words("--pid 7 --terminal -- ls -l --pid")).unwrap();
        assert_eq!((request.pid, request.terminal), (7, true));
        assert_eq!(split("A=b=c"), Some(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(split("A"), None);
        assert_eq!(request.command, ["ls", "-l", "--pid"]);
        for bad in [
            "--pid 7",
            "-- ls",
            "--pid x -- ls",
            "--wat -- ls",
            // Everybody could see it.
            "--pid 7 --env A=b -- ls",
        ] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }
}
