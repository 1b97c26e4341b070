//! Starting a domain with a channel to its guest.

use std::convert::Infallible;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest_init::channel::link::Link;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socketpair};
use nix::unistd::geteuid;

use crate::console::Stdio;
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;
use crate::run::{Plan, Reach};
use crate::sys::text::printable::printable;

/// A guest that was started.
#[derive(Debug)]
pub struct Contact {
    /// The channel to it.
    pub link: Link,
    /// What it says beside.
    pub last_words: LastWords,
}

/// What a guest said where it could not say it on the channel.
#[derive(Debug)]
pub enum LastWords {
    /// In a file of its staging root.
    File(PathBuf),
    /// On its consoles.
    Consoles(Words),
}

/// The end of what was said on consoles.
#[derive(Debug)]
pub struct Words {
    said: Arc<Mutex<Vec<u8>>>,
    /// Says nothing, until all consoles have ended.
    listeners: Receiver<Infallible>,
}

/// Bytes of a console that are kept.
const KEPT: usize = 8 << 10;

/// How long the end of a console may take to come, when that of the machine has.
const END: Duration = Duration::from_secs(2);

/// Starts the domain of `plan`.
///
/// # Errors
/// Where it does not start, or cannot be reached then.
pub fn start(plan: &Plan, hypervisor: &dyn Hypervisor, stdio: &Stdio) -> Result<Contact> {
    match &plan.reach {
        Reach::HandedDown { log, .. } => {
            let (ours, theirs) = channel()?;
            let mut files: Vec<BorrowedFd<'_>> = vec![theirs.as_fd()];
            files.extend(stdio.shared());
            hypervisor.run(&plan.xml, &files)?;
            Ok(Contact {
                link: Link::new(ours),
                last_words: LastWords::File(log.clone()),
            })
        }
        Reach::Sockets {
            channel, consoles, ..
        } => {
            hypervisor.run(&plan.xml, &[])?;
            let (listener, listeners) = mpsc::channel();
            let said = Arc::new(Mutex::new(Vec::new()));
            for console in consoles {
                let (said, listener) = (Arc::clone(&said), listener.clone());
                listen(connect(console)?, said, listener, plan.guest.debug);
            }
            drop(listener);
            let channel = connect(channel)?;
            channel
                .set_nonblocking(true)
                .map_err(Error::step("connecting to the guest"))?;
            Ok(Contact {
                link: Link::new(channel.into()),
                last_words: LastWords::Consoles(Words { said, listeners }),
            })
        }
    }
}

fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )
    .map_err(|errno| Error::step("making a channel")(errno))
}

/// Connects to a socket of QEMU's. That of an ordinary user runs as that user: somebody else who listens there is not told what is run.
fn connect(socket: &Path) -> Result<UnixStream> {
    let failed = Error::io("connecting to", socket);
    let stream = UnixStream::connect(socket).map_err(&failed)?;
    let peer = getsockopt(&stream, PeerCredentials).map_err(|errno| failed(errno.into()))?;
    let own = geteuid();
    if own.is_root() || peer.uid() == own.as_raw() {
        return Ok(stream);
    }
    Err(Error::refused(format!(
        "user {} listens at '{}', and not QEMU; make sure that nobody else can write to the directories above",
        peer.uid(),
        socket.display()
    )))
}

/// Reads a console for as long as it is there: a guest whose console nobody reads stands still. `shown` prints it.
fn listen(
    mut console: UnixStream,
    said: Arc<Mutex<Vec<u8>>>,
    listener: Sender<Infallible>,
    shown: bool,
) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            if shown {
                // Nobody can do anything about a failure to print.
                // A serial line ends its lines with both.
                let text = printable(&String::from_utf8_lossy(bytes).replace('\r', ""));
                let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
            }
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.extend_from_slice(bytes);
            let excess = said.len().saturating_sub(KEPT);
            said.drain(..excess);
        }
        drop(listener);
    });
}

impl LastWords {
    /// All of it, or the end of it, once the guest has ended.
    #[must_use]
    pub fn read(&self) -> String {
        match self {
            Self::File(path) => std::fs::read_to_string(path).unwrap_or_default(),
            Self::Consoles(words) => {
                let _ = words.listeners.recv_timeout(END);
                let said = words.said.lock().unwrap_or_else(PoisonError::into_inner);
                String::from_utf8_lossy(&said).replace('\r', "")
            }
        }
    }
}
