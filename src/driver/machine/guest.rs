//! A machine that runs, reached through its agent ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest_init::channel::agent_request::{AgentRequest, Execute};
use guest_init::config::{Stdio as GuestStdio, Stream};
use guest_init::sys::cgroup::KERNEL_THREADS;

use super::PATIENCE;
use super::channel::{self, AgentPorts};
use super::limits;
use super::tunnel::HostTunnel;
use crate::console::{Console, SessionEnd, Signals, Stdio, Timeouts};
use crate::driver::guest::{ANSWER, Entrance, Guest, GuestUsage};
use crate::driver::proc::{self, Mapped};
use crate::error::{Error, Result};
use crate::hypervisor::Limit;
use crate::sys::process::command::Captured;
use crate::sys::process::enter::ExecOptions;
use crate::sys::process::pidfd::Process;

/// Time that the agent may take to answer where many machines are asked, some of which may hang.
const GLANCE: Duration = Duration::from_secs(2);

/// Time that files of the guest's kernel may take to come, after the agent has answered.
pub(super) const FILES: Duration = Duration::from_secs(5);

/// Time that a command may take to start.
const START: Duration = Duration::from_secs(60);

/// Most paths of one command.
const PATHS: usize = 200;

/// A machine that runs.
#[derive(Debug)]
pub(in crate::driver) struct Machine {
    ports: AgentPorts,
    /// QEMU; none if it has ended.
    process: Option<Process>,
}

impl Machine {
    /// Returns the machine of the sandbox whose directory is `stage`.
    pub(in crate::driver) fn new(stage: &Path) -> Self {
        Self::at(channel::directory(stage))
    }

    /// Returns the machine whose sockets are in `ports`.
    pub(super) fn at(ports: PathBuf) -> Self {
        Self {
            process: channel::process(&ports),
            ports: AgentPorts::new(ports),
        }
    }

    /// Sends a request to the agent; a port that fails is not used again.
    fn ask(&self, ask: &AgentRequest, timeouts: Duration, limit: Duration) -> Result<Captured> {
        let captured = self.ask_within(ask, timeouts, limit)?;
        captured.ok_or_else(|| Error::not_ready("the virtual machine does not answer"))
    }

    /// Sends a request to the agent, and gives it up if its end is not reached within `limit`.
    fn ask_within(
        &self,
        ask: &AgentRequest,
        timeouts: Duration,
        limit: Duration,
    ) -> Result<Option<Captured>> {
        let mut port = self.ports.attach(timeouts)?;
        let captured = port.capture(ask, Instant::now() + limit)?;
        if captured.is_some() {
            self.ports.keep(port);
        }
        Ok(captured)
    }

    fn read(&self, paths: &[&str]) -> Result<Vec<String>> {
        let paths = paths.iter().map(PathBuf::from).collect();
        let read = self.ask(&AgentRequest::Read { paths }, GLANCE, FILES)?;
        serde_json::from_str(&read.stdout).map_err(Error::step("reading what the sandbox says"))
    }
}

fn asked(how: &ExecOptions, command: Vec<String>, stdio: GuestStdio) -> AgentRequest {
    AgentRequest::Execute(Execute {
        command,
        user: how.user.clone(),
        directory: how.directory.clone(),
        environment: how.environment.clone(),
        stdio,
    })
}

/// Returns the request to run a command as root, whose output is for a program.
fn captured(command: &[&str]) -> AgentRequest {
    let command = command.iter().map(ToString::to_string).collect();
    let how = ExecOptions {
        environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
        ..ExecOptions::default()
    };
    let stdio = GuestStdio::Streams([Stream::None, Stream::Channel, Stream::Channel]);
    asked(&how, command, stdio)
}

impl Guest for Machine {
    fn is_alive(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| !process.wait(Duration::ZERO))
    }

    fn answers(&self) -> bool {
        let attached = self.ports.attach(Duration::from_millis(100));
        let answers = attached.is_ok();
        attached.into_iter().for_each(|port| self.ports.keep(port));
        answers
    }

    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>> {
        self.ask_within(&captured(command), PATIENCE, limit)
    }

    fn execute(&self, how: &ExecOptions, command: &[String]) -> Result<u8> {
        let port = self.ports.attach(PATIENCE)?;
        let signals = Signals::hold()?;
        let stdio = Stdio::of_process(how.terminal, false)?;
        let ask = asked(how, command.to_vec(), stdio.for_guest());
        let (link, _lock) = port.into_asked(&ask)?;
        let timeouts = Timeouts {
            start: START,
            run: None,
        };
        let session = Console::new(link, stdio, None, &signals, timeouts)?.run()?;
        match session.end {
            SessionEnd::Exit(exit) => exit_status(&exit),
            SessionEnd::Interrupted(signal) => Ok(128_u8.saturating_add(signal as u8)),
            SessionEnd::Lost => Err(Error::not_running("the sandbox has ended meanwhile")),
            SessionEnd::Escaped | SessionEnd::Silent | SessionEnd::TimedOut => {
                Err(Error::not_ready("the virtual machine does not answer"))
            }
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let tables = self.read(&["/proc/net/fib_trie", "/proc/net/if_inet6"]);
        match tables.as_deref() {
            Ok([v4, v6]) => proc::addresses(v4, v6),
            Ok(_) => vec![],
            Err(error) => {
                log::debug!("asking for addresses: {error}");
                vec![]
            }
        }
    }

    fn entrance(&self) -> Result<Entrance> {
        let tunnel = HostTunnel::new(self.ports.directory());
        Ok(Entrance::Tunnel(Box::new(tunnel)))
    }

    /// Asks the machine for its maps, and for the inodes that are at their paths now: its kernel numbers files in its own way.
    fn replaced_files(&self, limit: Duration) -> Result<BTreeSet<PathBuf>> {
        let begin = Instant::now();
        let left = || limit.saturating_sub(begin.elapsed());
        let script = "cat /proc/[0-9]*/maps 2>/dev/null | cut -d ' ' -f 5- | sort -u";
        let maps = self.ask(&captured(&["sh", "-c", script]), GLANCE, left())?;
        let mut mapped = Mapped::new();
        proc::add_mapped(&mut mapped, maps.stdout.lines());
        let mut now = BTreeMap::new();
        let paths: Vec<&str> = mapped.keys().filter_map(|path| path.to_str()).collect();
        for paths in paths.chunks(PATHS) {
            let mut command = vec!["stat", "-L", "-c", "%i %n", "--"];
            command.extend(paths);
            // Files that are gone are an error of stat, and no lines.
            let said = self.ask(&captured(&command), GLANCE, left())?;
            let lines = said.stdout.lines().filter_map(|line| line.split_once(' '));
            now.extend(lines.filter_map(|(inode, path)| {
                Some((PathBuf::from(path), inode.parse::<u64>().ok()?))
            }));
        }
        Ok(proc::replaced(&mapped, |path| now.get(path).copied()))
    }

    fn usage(&self) -> Result<GuestUsage> {
        let files = [
            "/proc/net/dev",
            "/proc/uptime",
            "/sys/fs/cgroup/pids.current",
        ];
        let texts = self.read(&files)?;
        let text = |index: usize| texts.get(index).map_or("", String::as_str);
        let (net_received, net_sent) = proc::parse_net_dev(text(0));
        Ok(GuestUsage {
            net_received,
            net_sent,
            // A kernel without the pids controller has no such file.
            processes: text(2).trim().parse().ok(),
            uptime: proc::parse_uptime(text(1)).unwrap_or_default(),
        })
    }

    fn limit_processes(&self, most: u64) -> Result<()> {
        let enough = most.saturating_add(KERNEL_THREADS);
        let script = format!(
            "echo {most} >/sys/fs/cgroup/pids.max && \
             if [ \"$(cat /proc/sys/kernel/threads-max)\" -lt {enough} ]; then \
             echo {enough} >/proc/sys/kernel/threads-max; fi"
        );
        let written = self.capture(&["/bin/sh", "-c", &script])?;
        match written.success {
            true => Ok(()),
            false => Err(Error::refused(written.stderr)),
        }
    }

    fn check_limit(&self, limit: &Limit) -> Result<()> {
        limits::check(self, limit)
    }

    fn apply_limit(&self, limit: &Limit) -> Result<()> {
        limits::apply(self, limit)
    }

    fn sync(&self) -> Result<()> {
        self.capture(&["sync"]).map(drop)
    }

    fn set_clock(&self) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.ask(&AgentRequest::Clock { nanoseconds }, PATIENCE, ANSWER)
            .map(drop)
    }
}

/// Returns the exit status of a command, and logs why one could not be run. A failure of the guest itself is an error.
fn exit_status(exit: &guest_init::channel::wire::Exit) -> Result<u8> {
    use guest_init::channel::wire::Exit;
    match exit {
        Exit::Failed { reason } => Err(Error::refused(reason.clone())),
        Exit::NotRun { reason, .. } => {
            log::error!("{reason}");
            Ok(exit.code())
        }
        Exit::Status { .. } | Exit::Signal { .. } => Ok(exit.code()),
    }
}
