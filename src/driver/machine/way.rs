//! The ways into a virtual machine: sockets, each for one program of the host at a time.
//!
//! Whoever takes one holds the lock beside it. What a predecessor that was killed has left on it, in either direction, is told
//! apart by a number that only we have said (see [`ask`](guest_init::channel::agent_request)).

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

/// How many programs of the host can be in one machine at a time.
pub const WAYS: u32 = 16;

/// How long an answer to attaching may take until it is tried again: a guest may miss that somebody has gone if the next one comes at
/// once, in the middle of what it was told.
const TRY: Duration = Duration::from_secs(3);

/// How long it is left alone then.
const PAUSE: Duration = Duration::from_millis(300);

/// The directory of the sockets, in that of the sandbox.
#[must_use]
pub fn directory(stage: &Path) -> PathBuf {
    stage.join("ways")
}

fn socket(directory: &Path, index: u32) -> PathBuf {
    directory.join(index.to_string())
}

/// A socket that QEMU has and no port of the guest's uses: who is at its other end is the process of the machine.
fn life(directory: &Path) -> PathBuf {
    directory.join("life")
}

/// The ports of a machine whose sockets are in `directory`.
#[must_use]
pub fn channels(directory: &Path) -> Vec<qemu::Channel> {
    let way = |index| qemu::Channel {
        name: format!("{PORTS}{index}"),
        socket: socket(directory, index),
    };
    let life = qemu::Channel {
        name: "org.virt-sandbox.life".to_owned(),
        socket: life(directory),
    };
    (0..WAYS).map(way).chain([life]).collect()
}

/// The process of the machine whose sockets are in `directory`; `None` where it has ended.
#[must_use]
pub fn process(directory: &Path) -> Option<Process> {
    let stream = UnixStream::connect(life(directory)).ok()?;
    // The kernel notes who has made a socket listen (unix(7)), which QEMU does once more with what libvirt hands it.
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    Process::open(u32::try_from(peer.pid()).ok()?).ok()
}

/// A way that is ours.
#[derive(Debug)]
pub struct Way {
    /// Closed before the lock is free.
    link: Link,
    lock: Lock,
    number: u64,
    is_attached: bool,
    since: Instant,
}

impl Way {
    /// Takes a way that is free, without waiting for an answer; `None` if none is free.
    ///
    /// # Errors
    /// Where the machine has ended, or has no ways.
    pub fn take(directory: &Path) -> Result<Option<Self>> {
        for index in 0..WAYS {
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

    /// Waits until the guest answers; `false` if it does not in this time.
    ///
    /// # Errors
    /// Where the machine has ended, or was started by a version of this program that speaks otherwise.
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
            } else if !self.turn(end)? || Instant::now() >= end {
                // It may say other things without end.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it has waited in vain for so long that another attempt may do better.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.is_attached && self.since.elapsed() > TRY
    }

    /// Gives the way back, and leaves it alone for as long as a guest takes to notice.
    pub fn give_up(self) {
        let Self { link, lock, .. } = self;
        drop(link);
        std::thread::sleep(PAUSE);
        drop(lock);
    }

    /// Asks, and collects what is said until the end; `None` where that is not reached by `end`.
    ///
    /// # Errors
    /// Where the machine ends meanwhile, or cannot do what is asked.
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
                    // Not for every byte: a guest that does not listen would have the answers pile up here.
                    if *taken >= WINDOW / 4 {
                        self.link.send(&Frame::Room(channel, *taken));
                        *taken = 0;
                    }
                }
                Some(Frame::Exit(exit)) => break exit,
                Some(_) => {}
                None if Instant::now() >= end => return Ok(None),
                None => {
                    self.turn(end)?;
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
                stderr: if stderr.is_empty() {
                    format!("exit status: {}", exit.code())
                } else {
                    stderr
                },
            })),
        }
    }

    /// Asks; what comes of it is heard on the link, and the lock is to be held for as long.
    ///
    /// # Errors
    /// None but of programming.
    pub fn into_asked(mut self, ask: &AgentRequest) -> Result<(Link, Lock)> {
        self.ask(ask)?;
        Ok((self.link, self.lock))
    }

    fn ask(&mut self, ask: &AgentRequest) -> Result<()> {
        let text = serde_json::to_vec(ask).map_err(Error::step("asking the sandbox"))?;
        self.link.send(&Frame::Config(text));
        Ok(())
    }

    /// Waits until something can be read or written, and does it; `false` where nothing could be by `end`.
    fn turn(&mut self, end: Instant) -> Result<bool> {
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
