//! A virtual machine that runs, reached through a port of it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest_init::channel::agent_request::{AgentRequest, Execute};
use guest_init::config::{Stdio as GuestStdio, Stream};

use super::carrier::Tunnelling;
use super::way::{self, Way};
use crate::console::{Console, Ending, Patience, Signals, Stdio};
use crate::driver::{ANSWER, Activity, Inside, Reach, addresses};
use crate::error::{Error, Result};
use crate::hypervisor::Limit;
use crate::sys::process::command::Captured;
use crate::sys::process::enter::ExecOptions;
use crate::sys::process::pidfd::Process;

/// How long an answer may take from a machine that is up: an emulated one on a busy host is slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take until one answers of the many that are asked, some of which may hang.
const GLANCE: Duration = Duration::from_secs(2);

/// How long the answer itself may take then: files of the kernel's.
pub(super) const FILES: Duration = Duration::from_secs(5);

/// How long it may take until a command runs.
const START: Duration = Duration::from_secs(60);

/// A virtual machine that runs.
#[derive(Debug)]
pub(in crate::driver) struct Machine {
    ways: PathBuf,
    /// QEMU; none if it has ended.
    process: Option<Process>,
    /// The way that was used last.
    way: RefCell<Option<Way>>,
}

impl Machine {
    /// The one whose directory is `stage`.
    pub(in crate::driver) fn new(stage: &Path) -> Self {
        Self::at(way::directory(stage))
    }

    /// The one whose sockets are in `ways`.
    pub(super) fn at(ways: PathBuf) -> Self {
        Self {
            process: way::process(&ways),
            ways,
            way: RefCell::new(None),
        }
    }

    /// Asks on a way that is attached; one that fails is not used again.
    fn ask(&self, ask: &AgentRequest, patience: Duration, limit: Duration) -> Result<Captured> {
        let captured = self.ask_within(ask, patience, limit)?;
        captured.ok_or_else(|| Error::not_ready("the virtual machine does not answer"))
    }

    /// The same, but `None` where the end is not reached within `limit`: what is asked is given up then.
    fn ask_within(
        &self,
        ask: &AgentRequest,
        patience: Duration,
        limit: Duration,
    ) -> Result<Option<Captured>> {
        let mut way = self.attached(patience)?;
        let captured = way.capture(ask, Instant::now() + limit)?;
        if captured.is_some() {
            *self.way.borrow_mut() = Some(way);
        }
        Ok(captured)
    }

    /// The way that was used last, or another one, attached.
    pub(super) fn attached(&self, patience: Duration) -> Result<Way> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let kept = self.way.borrow_mut().take();
            let taken = match kept {
                Some(way) => Some(way),
                None => Way::take(&self.ways)?,
            };
            match taken {
                Some(mut way) => {
                    if way.attach(left.min(Duration::from_millis(100)))? {
                        return Ok(way);
                    }
                    if way.is_stale() {
                        way.give_up();
                    } else {
                        *self.way.borrow_mut() = Some(way);
                    }
                }
                None => thread::sleep(Duration::from_millis(50)),
            }
            if left.is_zero() {
                return Err(Error::not_ready(match self.way.borrow().is_some() {
                    true => {
                        "the virtual machine does not answer; it may still be booting, or hang: see what it says on its console"
                    }
                    false => {
                        "all ways into the virtual machine are in use; try again when fewer commands run in it"
                    }
                }));
            }
        }
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

/// A command of root's whose output is for a program.
fn captured(command: &[&str]) -> AgentRequest {
    let command = command.iter().map(ToString::to_string).collect();
    let how = ExecOptions {
        environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
        ..ExecOptions::default()
    };
    let stdio = GuestStdio::Streams([Stream::None, Stream::Channel, Stream::Channel]);
    asked(&how, command, stdio)
}

impl Inside for Machine {
    fn is_alive(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| !process.wait(Duration::ZERO))
    }

    fn answers(&self) -> bool {
        match self.attached(Duration::from_millis(100)) {
            Ok(way) => {
                *self.way.borrow_mut() = Some(way);
                true
            }
            Err(_) => false,
        }
    }

    fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Captured>> {
        self.ask_within(&captured(command), PATIENCE, limit)
    }

    fn execute(&self, how: &ExecOptions, command: &[String]) -> Result<u8> {
        let way = self.attached(PATIENCE)?;
        let signals = Signals::hold()?;
        let stdio = Stdio::of_process(how.terminal, false)?;
        let ask = asked(how, command.to_vec(), stdio.for_guest());
        let (link, _lock) = way.into_asked(&ask)?;
        let patience = Patience {
            start: START,
            run: None,
        };
        let conversation = Console::new(link, stdio, None, &signals, patience)?.converse()?;
        match conversation.ending {
            Ending::Exit(exit) => exit_status(&exit),
            Ending::Interrupted(signal) => Ok(128_u8.saturating_add(signal as u8)),
            Ending::Lost => Err(Error::not_running("the sandbox has ended meanwhile")),
            Ending::Escaped | Ending::Silent | Ending::TimedOut => {
                Err(Error::not_ready("the virtual machine does not answer"))
            }
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let tables = self.read(&["/proc/net/fib_trie", "/proc/net/if_inet6"]);
        match tables.as_deref() {
            Ok([v4, v6]) => addresses::of_tables(v4, v6),
            Ok(_) => vec![],
            Err(error) => {
                log::debug!("asking for addresses: {error}");
                vec![]
            }
        }
    }

    fn reach(&self) -> Result<Reach> {
        Ok(Reach::Channel(Box::new(Tunnelling::new(&self.ways))))
    }

    fn activity(&self) -> Result<Activity> {
        let files = [
            "/proc/net/dev",
            "/proc/uptime",
            "/sys/fs/cgroup/init.scope/pids.current",
            "/sys/fs/cgroup/system.slice/pids.current",
            "/sys/fs/cgroup/user.slice/pids.current",
        ];
        let texts = self.read(&files)?;
        let text = |index: usize| texts.get(index).map_or("", String::as_str);
        let (net_received, net_sent) = crate::driver::parse_net_dev(text(0));
        let counts = texts.iter().skip(2);
        let counts: Vec<u64> = counts.filter_map(|text| text.trim().parse().ok()).collect();
        Ok(Activity {
            net_received,
            net_sent,
            processes: (!counts.is_empty())
                .then(|| counts.into_iter().fold(0, u64::saturating_add)),
            uptime: crate::driver::parse_uptime(text(1)).unwrap_or_default(),
        })
    }

    fn limit_processes(&self, most: u64) -> Result<()> {
        let script = format!("echo {most} > /proc/sys/kernel/threads-max");
        let written = self.capture(&["/bin/sh", "-c", &script])?;
        match written.success {
            true => Ok(()),
            false => Err(Error::refused(written.stderr)),
        }
    }

    fn bears(&self, limit: &Limit) -> Result<()> {
        super::limits::bears(self, limit)
    }

    fn adapt(&self, limit: &Limit) -> Result<()> {
        super::limits::adapt(self, limit)
    }

    fn settle(&self) -> Result<()> {
        self.capture(&["sync"]).map(drop)
    }

    fn wake(&self) -> Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.ask(&AgentRequest::Clock { nanoseconds }, PATIENCE, ANSWER)
            .map(drop)
    }
}

/// A failure of the guest's own is one of ours; a command that cannot be run has said why where there is a standard error.
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
