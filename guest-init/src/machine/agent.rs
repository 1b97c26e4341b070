//! The process of a virtual machine that answers the host while systemd is PID 1.
//!
//! It is started before systemd, and no unit of it, so it is there from before the first unit until after the last one: systemd
//! takes it into `init.scope` and ends it when it turns the machine off. One process waits for hosts on all ports; for each port that
//! somebody is at, it has a child.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_settime};
use nix::unistd::{Pid, getpid, read, setsid};

use crate::channel::agent_request::{AgentRequest, Execute, PORTS, VERSION};
use crate::channel::link::Link;
use crate::channel::wire::{CHUNK, Exit, Frame, Hello, StreamId};
use crate::config::{Command, Directory, Identity};
use crate::machine::block::wait_for;
use crate::process::account::Account;
use crate::session::{self, Outcome};
use crate::tunnel::targets::Targets;
use crate::tunnel::{Progress, Tunnel};
use crate::{machine, process};

/// The kernel ends it last when memory is short (`proc_pid_oom_score_adj(5)`): without it nobody could look what is wrong.
const OOM_SCORE_ADJ: &str = "-900";

/// A port, and who is at it.
struct Port {
    path: PathBuf,
    file: OwnedFd,
    child: Option<Pid>,
}

/// Leaves the process behind that answers on `port_count` ports.
pub fn start(port_count: u32) -> Result<()> {
    let mut paths = Vec::new();
    let all_there = wait_for(|| {
        paths = machine::ports();
        paths.retain(|(name, _)| name.starts_with(PORTS));
        (paths.len() >= port_count as usize).then_some(())
    });
    if all_there.is_none() {
        log::warn!(
            "of {port_count} ports to the host there are {}",
            paths.len()
        );
    }
    process::spawn(
        || match serve_ports(paths.into_iter().map(|(_, path)| path)) {
            Ok(never) => match never {},
            Err(error) => {
                log::error!("answering the host: {error:#}");
                1
            }
        },
    )
    .context("starting to answer the host")?;
    Ok(())
}

fn serve_ports(paths: impl Iterator<Item = PathBuf>) -> Result<std::convert::Infallible> {
    setsid().context("beginning a session")?;
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGIO);
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("blocking signals")?;
    let signals =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("listening for signals")?;
    let mut ports = paths.map(Port::open).collect::<Result<Vec<_>>>()?;
    loop {
        for port in &mut ports {
            if port.child.is_none() && port.has_client()? {
                port.serve()?;
            }
        }
        match signals.read_signal() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the host"),
        }
        while let Some(ended) = waitpid(None, Some(WaitPidFlag::WNOHANG))
            .ok()
            .and_then(|status| status.pid())
        {
            for port in &mut ports {
                if port.child.is_some() && port.child == Some(ended) {
                    port.child = None;
                    port.drain()?;
                    port.notify(true)?;
                }
            }
        }
    }
}

impl Port {
    fn open(path: PathBuf) -> Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = open(&path, flags, Mode::empty())
            .with_context(|| format!("opening '{}'", path.display()))?;
        let port = Self {
            path,
            file,
            child: None,
        };
        process::own_signals(&port.file, getpid())?;
        port.notify(true)?;
        Ok(port)
    }

    /// Whether the kernel sends SIGIO when the host comes or goes: poll(2) cannot wait for one to come.
    fn notify(&self, wanted: bool) -> Result<()> {
        let mut flags = OFlag::O_NONBLOCK;
        flags.set(OFlag::O_ASYNC, wanted);
        fcntl(&self.file, FcntlArg::F_SETFL(flags))
            .with_context(|| format!("listening on '{}'", self.path.display()))?;
        Ok(())
    }

    /// Whether somebody of the host has opened it.
    fn has_client(&self) -> Result<bool> {
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).context("looking for the host")?;
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        Ok(!events.contains(PollFlags::POLLHUP))
    }

    /// Throws away what somebody who is gone has said.
    fn drain(&self) -> Result<()> {
        let mut buffer = [0; 4096];
        while !self.has_client()? && matches!(read(&self.file, &mut buffer), Ok(1..)) {}
        Ok(())
    }

    /// Leaves it to a child until the host is gone.
    fn serve(&mut self) -> Result<()> {
        self.notify(false)?;
        let file = self.file.try_clone().context("copying a port")?;
        let child = process::spawn(|| {
            // What the host runs is no more precious than anything else.
            let _ = fs::write("/proc/self/oom_score_adj", "0");
            match serve_client(Link::new(file)) {
                Ok(()) => 0,
                Err(error) => {
                    log::warn!("answering on '{}': {error:#}", self.path.display());
                    // A host that is not understood is gone for us; it is not to be listened to at once again.
                    thread::sleep(Duration::from_millis(200));
                    1
                }
            }
        })?;
        self.child = Some(child);
        Ok(())
    }
}

/// Answers one host after the other, until none is there.
fn serve_client(mut link: Link) -> Result<()> {
    let mut greeting = None;
    loop {
        if let Some(number) = greeting.take() {
            link.forget();
            link.send(&Frame::Hello(Hello {
                version: VERSION,
                number,
            }));
        }
        match next_frame(&mut link)? {
            None => return Ok(()),
            Some(Frame::Attach(number)) => greeting = Some(number),
            Some(Frame::Config(text)) => match handle_request(&text, &mut link)? {
                Outcome::Exit(exit) => link.send(&Frame::Exit(exit)),
                Outcome::HostGone { successor: None } => return Ok(()),
                Outcome::HostGone { successor } => greeting = successor,
            },
            // What belongs to a command that has ended meanwhile.
            Some(_) => {}
        }
    }
}

/// The next frame; `None` once the host is gone.
fn next_frame(link: &mut Link) -> Result<Option<Frame>> {
    loop {
        if let Some(frame) = link.next_frame().context("reading what the host says")? {
            return Ok(Some(frame));
        }
        if link.flush().is_err() {
            return Ok(None);
        }
        let mut polled = [PollFd::new(link.as_fd(), link.wants())];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the host"),
        }
        if !link.fill().unwrap_or(false) {
            return Ok(None);
        }
    }
}

/// Does what is asked. Of what cannot be done the host is told; an error is one of the port.
fn handle_request(text: &[u8], link: &mut Link) -> Result<Outcome> {
    let failed = |error: anyhow::Error| {
        Ok(Outcome::Exit(Exit::Failed {
            reason: format!("{error:#}"),
        }))
    };
    let done = |result: Result<()>| match result {
        Ok(()) => Ok(Outcome::Exit(Exit::Status { code: 0 })),
        Err(error) => failed(error),
    };
    match serde_json::from_slice(text).context("reading what is asked") {
        Err(error) => failed(error),
        Ok(AgentRequest::Execute(execute)) => match to_command(execute) {
            Ok(command) => session::watch(&command, vec![], link).or_else(failed),
            Err(error) => failed(error),
        },
        Ok(AgentRequest::Read { paths }) => {
            let read = |path: &PathBuf| {
                let bytes = fs::read(path).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let texts: Vec<String> = paths.iter().map(read).collect();
            let text = serde_json::to_vec(&texts)?;
            for chunk in text.chunks(CHUNK) {
                link.send(&Frame::Data(StreamId::Stdout, chunk.to_vec()));
            }
            done(Ok(()))
        }
        Ok(AgentRequest::Tunnel) => run_tunnel(link),
        Ok(AgentRequest::Clock { nanoseconds }) => {
            let time = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
            done(clock_settime(ClockId::CLOCK_REALTIME, time).context("setting the clock"))
        }
    }
}

/// Carries connections until the host is gone.
fn run_tunnel(link: &mut Link) -> Result<Outcome> {
    let (files, most) = getrlimit(Resource::RLIMIT_NOFILE).context("asking for limits")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising a limit")?;
    let answers = |port| Targets::new(addresses(), port, true);
    let mut tunnel = Tunnel::of_guest(link, &answers);
    let successor = loop {
        match tunnel.poll_once(None).context("carrying connections")? {
            Progress::Made => {}
            Progress::Closed { successor, .. } => break successor,
        }
    };
    // What the next host runs here has what is usual.
    setrlimit(Resource::RLIMIT_NOFILE, files, most).context("lowering a limit")?;
    Ok(Outcome::HostGone { successor })
}

/// The machine's own addresses, without the loopback's and link-local ones.
fn addresses() -> Vec<IpAddr> {
    let found = getifaddrs().into_iter().flatten();
    let mut addresses: Vec<IpAddr> = found
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    addresses.sort_unstable();
    addresses
}

/// What is asked to be run, as a session takes it.
fn to_command(execute: Execute) -> Result<Command> {
    let account = Account::find(execute.user.as_deref().unwrap_or("root"))?;
    let words = |pairs: Vec<(String, String)>| {
        let pairs = pairs.into_iter();
        pairs
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    };
    Ok(Command {
        environment: words(account.environment("", &execute.environment)),
        directory: match execute.directory {
            Some(directory) => Directory::Must(directory),
            None => Directory::Try(Path::new(&account.home).to_owned()),
        },
        identity: Identity {
            uid: account.uid,
            gid: account.gid,
            groups: account.groups,
            // Who is not root has no capabilities anyway (capabilities(7)), but may become root with what the sandbox has for that.
            privileged: true,
        },
        argv: execute.command.into_iter().map(Into::into).collect(),
        stdio: execute.stdio,
    })
}
