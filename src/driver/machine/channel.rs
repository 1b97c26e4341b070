//! Agent ports of a machine: sockets on the host that lead to its agent, each for one program of the host at a time.
//!
//! A program holds the lock beside the socket. It sends a random number and discards input until the agent repeats it, so leftovers of
//! a killed program are never taken for an answer (see [`ask`](guest_init::channel::agent_request)).

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest_init::channel::agent_request::{AgentRequest, PORTS, VERSION};
use guest_init::channel::link::Link;
use guest_init::channel::wire::{Exit, Frame, StreamId, WINDOW};
use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::domain::qemu;
use crate::error::{Error, Result};
use crate::sys::file::lock::{Lock, Sharing};
use crate::sys::process::command::Captured;
use crate::sys::process::deadline::{MAX_STDERR, MAX_STDOUT};
use crate::sys::process::pidfd::Process;

/// Number of programs of the host that can be in one machine at a time.
pub const AGENT_PORTS: u32 = 16;

/// Time that an answer to attaching may take until it is tried again: a guest may miss that a program has gone if the next one comes
/// at once, in the middle of a frame.
const TRY: Duration = Duration::from_secs(3);

/// Time that a port is left alone before the next attempt.
const PAUSE: Duration = Duration::from_millis(300);

/// Returns the directory of the sockets, in that of the sandbox.
#[must_use]
pub fn directory(stage: &Path) -> PathBuf {
    stage.join("ways")
}

fn socket(directory: &Path, index: u32) -> PathBuf {
    directory.join(index.to_string())
}

/// Returns the socket of a port that the guest does not use: the process at its other end is the machine's QEMU.
fn life(directory: &Path) -> PathBuf {
    directory.join("life")
}

/// Returns the ports of a machine whose sockets are in `directory`.
#[must_use]
pub fn channels(directory: &Path) -> Vec<qemu::Channel> {
    let agent_port = |index| qemu::Channel {
        name: format!("{PORTS}{index}"),
        socket: socket(directory, index),
    };
    let life = qemu::Channel {
        name: "org.virt-sandbox.life".to_owned(),
        socket: life(directory),
    };
    (0..AGENT_PORTS).map(agent_port).chain([life]).collect()
}

/// Returns the process of the machine whose sockets are in `directory`; `None` if it has ended.
#[must_use]
pub fn process(directory: &Path) -> Option<Process> {
    let stream = UnixStream::connect(life(directory)).ok()?;
    // The kernel notes which process made a socket listen (unix(7)); QEMU does so once more with the socket that libvirt hands it.
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    Process::open(u32::try_from(peer.pid()).ok()?).ok()
}

/// The agent ports of a machine, of which the one that was used last is kept.
#[derive(Debug)]
pub struct AgentPorts {
    directory: PathBuf,
    kept: RefCell<Option<AgentPort>>,
}

impl AgentPorts {
    /// Returns those whose sockets are in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        let kept = RefCell::new(None);
        Self { directory, kept }
    }

    /// Returns the directory of the sockets.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Keeps a port for the next request.
    pub fn keep(&self, port: AgentPort) {
        *self.kept.borrow_mut() = Some(port);
    }

    /// Returns the port that was used last, or another one, once the agent has answered.
    ///
    /// # Errors
    /// Where the machine has ended, does not answer within `patience`, or all ports are in use.
    pub fn attach(&self, patience: Duration) -> Result<AgentPort> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let kept = self.kept.borrow_mut().take();
            let taken = match kept.and_then(AgentPort::into_current) {
                Some(port) => Some(port),
                None => AgentPort::take(&self.directory)?,
            };
            match taken {
                Some(mut port) => {
                    if port.attach(left.min(Duration::from_millis(100)))? {
                        return Ok(port);
                    }
                    if port.is_stale() {
                        port.release();
                    } else {
                        self.keep(port);
                    }
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
            if left.is_zero() {
                return Err(Error::not_ready(match self.kept.borrow().is_some() {
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
}

/// An agent port that is ours.
#[derive(Debug)]
pub struct AgentPort {
    /// Closed before the lock is released.
    link: Link,
    lock: Lock,
    number: u64,
    is_attached: bool,
    since: Instant,
}

impl AgentPort {
    /// Takes a free port, without waiting for an answer; `None` if none is free.
    ///
    /// # Errors
    /// Where the machine has ended, or has no agent ports.
    pub fn take(directory: &Path) -> Result<Option<Self>> {
        for index in 0..AGENT_PORTS {
            let lock = directory.join(format!("{index}.lock"));
            let Ok(lock) = Lock::try_acquire(&lock, Sharing::Exclusive)? else {
                continue;
            };
            let path = socket(directory, index);
            let failed = Error::io("connecting to", &path);
            let stream = UnixStream::connect(&path).map_err(&failed)?;
            stream.set_nonblocking(true).map_err(&failed)?;
            let mut link = Link::new(stream.into());
            let number = uuid::Uuid::new_v4().as_u64_pair().0;
            link.send(&Frame::Attach(number));
            return Ok(Some(Self {
                link,
                lock,
                number,
                is_attached: false,
                since: Instant::now(),
            }));
        }
        Ok(None)
    }

    /// Waits until the guest answers; `false` if it does not within `patience`.
    ///
    /// # Errors
    /// Where the machine has ended, or was started by a version of this program that speaks another protocol.
    pub fn attach(&mut self, patience: Duration) -> Result<bool> {
        let end = Instant::now() + patience;
        while !self.is_attached {
            if let Some(hello) = self.link.hello(self.number) {
                if hello.version != VERSION {
                    return Err(Error::refused(format!(
                        "the virtual machine was started by another version of this program (it speaks {}, this one \
                         {VERSION}); restart the sandbox",
                        hello.version
                    )));
                }
                self.is_attached = true;
            } else if !self.poll_once(end)? || Instant::now() >= end {
                // It may send other frames without end.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the port unless the guest has rebooted since it answered.
    pub fn into_current(mut self) -> Option<Self> {
        if self.is_attached {
            self.link.fill().ok().filter(|is_open| *is_open)?;
            // Frames of the last answer may be left.
            while self.link.next_frame().ok()?.is_some() {}
        }
        Some(self)
    }

    /// Returns whether it has waited in vain for so long that another attempt may do better.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.is_attached && self.since.elapsed() > TRY
    }

    /// Releases the port after the time that a guest takes to notice.
    pub fn release(self) {
        let Self { link, lock, .. } = self;
        drop(link);
        std::thread::sleep(PAUSE);
        drop(lock);
    }

    /// Sends a request and collects the output until its end; `None` if that is not reached by `end`.
    ///
    /// # Errors
    /// Where the machine ends meanwhile, or cannot do what it is asked.
    pub fn capture(&mut self, ask: &AgentRequest, end: Instant) -> Result<Option<Captured>> {
        self.ask(ask)?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut taken = [0, 0];
        let exit = loop {
            let frame = self.link.next_frame();
            match frame.map_err(Error::step("reading what the sandbox says"))? {
                Some(Frame::Data(channel, bytes)) => {
                    let (said, most, taken) = match channel {
                        StreamId::Stderr => (&mut stderr, MAX_STDERR, &mut taken[1]),
                        StreamId::Stdin | StreamId::Stdout => {
                            (&mut stdout, MAX_STDOUT, &mut taken[0])
                        }
                    };
                    *taken += u32::try_from(bytes.len()).unwrap_or(0);
                    let left = most - said.len();
                    said.extend(bytes.into_iter().take(left));
                    // Not for every byte: the frames would pile up here if a guest does not read.
                    if *taken >= WINDOW / 4 {
                        self.link.send(&Frame::Room(channel, *taken));
                        *taken = 0;
                    }
                }
                Some(Frame::Exit(exit)) => break exit,
                Some(_) => {}
                None if Instant::now() >= end => return Ok(None),
                None => {
                    self.poll_once(end)?;
                }
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let stderr = text(&stderr).trim().to_owned();
        match exit {
            Exit::Failed { reason } => Err(Error::refused(reason)),
            Exit::NotRun { reason, .. } => Ok(Some(Captured {
                success: false,
                stdout: text(&stdout),
                stderr: reason,
            })),
            Exit::Status { .. } | Exit::Signal { .. } => Ok(Some(Captured {
                success: exit.code() == 0,
                stdout: text(&stdout),
                stderr: if stderr.is_empty() && exit.code() != 0 {
                    format!("exit status: {}", exit.code())
                } else {
                    stderr
                },
            })),
        }
    }

    /// Sends a request and returns the link that its output comes on, with the lock that holds the port.
    pub fn into_asked(mut self, ask: &AgentRequest) -> Result<(Link, Lock)> {
        self.ask(ask)?;
        Ok((self.link, self.lock))
    }

    fn ask(&mut self, ask: &AgentRequest) -> Result<()> {
        let text = serde_json::to_vec(ask).map_err(Error::step("asking the sandbox"))?;
        self.link.send(&Frame::Config(text));
        Ok(())
    }

    /// Waits until the link can be read or written, and does it; `false` if it could not be by `end`.
    fn poll_once(&mut self, end: Instant) -> Result<bool> {
        let gone = || Error::not_running("the sandbox has ended meanwhile");
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(self.link.as_fd(), self.link.wants())];
        let ready = match poll(&mut polled, left) {
            Err(Errno::EINTR) => return Ok(true),
            result => result.map_err(Error::step("waiting for the sandbox"))?,
        };
        self.link.flush().map_err(|_: io::Error| gone())?;
        match ready {
            0 => Ok(false),
            _ if self.link.fill().unwrap_or(false) => Ok(true),
            _ => Err(gone()),
        }
    }
}
