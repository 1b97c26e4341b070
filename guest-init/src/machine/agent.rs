//! Agent: the process of a virtual machine that answers the host, and its power button, while systemd is PID 1.
//!
//! The agent starts before systemd and is no unit, so it runs from before the first unit until after the last one: it is outside the
//! cgroups of systemd, which kills it when the machine is turned off. Commands of the host are part of the payload. One process waits for clients on all ports; each port with a client has a
//! child process.

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
use crate::power::PowerRequest;
use crate::power::button::PowerButton;
use crate::process::account::Account;
use crate::session::{self, Group, Outcome};
use crate::tunnel::targets::Targets;
use crate::tunnel::{Progress, Tunnel};
use crate::{machine, process};

/// The kernel kills the agent last when memory is short (`proc_pid_oom_score_adj(5)`): it is needed to find out what is wrong.
const OOM_SCORE_ADJ: &str = "-900";

/// A port to the host, and the process that serves its client.
struct Port {
    path: PathBuf,
    file: OwnedFd,
    child: Option<Pid>,
}

/// Starts the agent on `port_count` ports.
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
    let mut button = PowerButton::open()?;
    loop {
        if button.was_pressed() {
            PowerRequest::PowerOff.pass_on(Pid::from_raw(1));
        }
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

    /// Turns on or off SIGIO for clients that open or close the port: poll(2) cannot wait for a client.
    fn notify(&self, wanted: bool) -> Result<()> {
        let mut flags = OFlag::O_NONBLOCK;
        flags.set(OFlag::O_ASYNC, wanted);
        fcntl(&self.file, FcntlArg::F_SETFL(flags))
            .with_context(|| format!("listening on '{}'", self.path.display()))?;
        Ok(())
    }

    /// Returns whether a client on the host has opened the port.
    fn has_client(&self) -> Result<bool> {
        let mut polled = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).context("looking for the host")?;
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        Ok(!events.contains(PollFlags::POLLHUP))
    }

    /// Discards data of a client that is gone.
    fn drain(&self) -> Result<()> {
        let mut buffer = [0; 4096];
        while !self.has_client()? && matches!(read(&self.file, &mut buffer), Ok(1..)) {}
        Ok(())
    }

    /// Starts a child process that serves the client until it is gone.
    fn serve(&mut self) -> Result<()> {
        self.notify(false)?;
        let file = self.file.try_clone().context("copying a port")?;
        let child = process::spawn(|| {
            // Commands that the host runs get no protection.
            let _ = fs::write("/proc/self/oom_score_adj", "0");
            match serve_client(Link::new(file)) {
                Ok(()) => 0,
                Err(error) => {
                    log::warn!("answering on '{}': {error:#}", self.path.display());
                    // A client that sends garbage is not served again at once.
                    thread::sleep(Duration::from_millis(200));
                    1
                }
            }
        })?;
        self.child = Some(child);
        Ok(())
    }
}

/// Serves clients one after the other, until the port is closed.
fn serve_client(mut link: Link) -> Result<()> {
    let (mut greeting, mut is_attached) = (None, false);
    link.begin();
    loop {
        if let Some(number) = greeting.take() {
            is_attached = true;
            link.forget();
            link.send(&Frame::Hello(Hello {
                version: VERSION,
                number,
            }));
        }
        match next_frame(&mut link)? {
            None => return Ok(()),
            Some(Frame::Attach(number)) => greeting = Some(number),
            // A client that has not attached expects an answer from an earlier boot.
            Some(Frame::Config(text)) if is_attached => match handle_request(&text, &mut link)? {
                Outcome::Exit(exit) => link.send(&Frame::Exit(exit)),
                Outcome::HostGone { successor: None } => return Ok(()),
                Outcome::HostGone { successor } => greeting = successor,
            },
            // Left over from a command that has ended.
            Some(_) => {}
        }
    }
}

/// Returns the next frame, or `None` once the client is gone.
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

/// Carries out a request. A request that fails is answered with the reason; an error is a failure of the port.
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
            Ok(command) => session::watch(&command, Group::Payload, vec![], link).or_else(failed),
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

/// Serves a tunnel until the client is gone.
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
    // Commands of the next client get the usual limit.
    setrlimit(Resource::RLIMIT_NOFILE, files, most).context("lowering a limit")?;
    Ok(Outcome::HostGone { successor })
}

/// Returns the addresses of the machine, except those of the loopback and link-local ones.
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

/// Returns the command of a request as a session takes it.
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
            // Users other than root have no capabilities (capabilities(7)), but may use the set-user-ID programs of the sandbox.
            privileged: true,
        },
        argv: execute.command.into_iter().map(Into::into).collect(),
        stdio: execute.stdio,
    })
}
