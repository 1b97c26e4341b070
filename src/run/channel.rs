//! The channel to the guest of a one-shot sandbox, and its last output.

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
use crate::driver::Sockets;
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;
use crate::run::Plan;
use crate::sys::text::printable::printable;

/// Kind of channel to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelKind {
    /// A socket that a container inherits when the domain starts.
    Inherited {
        /// The directory that becomes the staging root.
        stage: PathBuf,
        /// File of guest-init for errors that it cannot send on the channel.
        log: PathBuf,
    },
    /// Unix sockets that the hypervisor makes.
    Sockets(Sockets),
}

/// A guest that was started.
#[derive(Debug)]
pub struct StartedGuest {
    /// The channel to it.
    pub link: Link,
    /// Output of the guest beside the channel.
    pub output: GuestOutput,
}

/// Output of a guest beside the channel.
#[derive(Debug)]
pub enum GuestOutput {
    /// In a file of its staging root.
    File(PathBuf),
    /// On its consoles.
    Consoles(ConsoleOutput),
}

/// The end of the output on consoles.
#[derive(Debug)]
pub struct ConsoleOutput {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Disconnected once all consoles have ended.
    listeners: Receiver<Infallible>,
}

/// Bytes of consoles that are kept.
const KEPT: usize = 8 << 10;

/// Time that the end of a console may take to come, after that of the machine.
const END: Duration = Duration::from_secs(2);

/// Starts the domain of `plan`.
///
/// # Errors
/// Where it does not start, or cannot be reached then.
pub fn start(plan: &Plan, hypervisor: &dyn Hypervisor, stdio: &Stdio) -> Result<StartedGuest> {
    let xml = &plan.boot.xml;
    match &plan.channel {
        ChannelKind::Inherited { log, .. } => {
            let (ours, theirs) = channel()?;
            let mut files: Vec<BorrowedFd<'_>> = vec![theirs.as_fd()];
            files.extend(stdio.shared());
            hypervisor.run(xml, &files)?;
            Ok(StartedGuest {
                link: Link::new(ours),
                output: GuestOutput::File(log.clone()),
            })
        }
        ChannelKind::Sockets(sockets) => {
            hypervisor.run(xml, &[])?;
            let (listener, listeners) = mpsc::channel();
            let bytes = Arc::new(Mutex::new(Vec::new()));
            for console in std::iter::once(&sockets.console).chain(&sockets.serial) {
                let (bytes, listener) = (Arc::clone(&bytes), listener.clone());
                listen(connect(console)?, bytes, listener, plan.boot.guest.debug);
            }
            drop(listener);
            let channel = connect(&sockets.channel)?;
            channel
                .set_nonblocking(true)
                .map_err(Error::step("connecting to the guest"))?;
            Ok(StartedGuest {
                link: Link::new(channel.into()),
                output: GuestOutput::Consoles(ConsoleOutput { bytes, listeners }),
            })
        }
    }
}

/// Makes the two ends of a channel.
fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )
    .map_err(|errno| Error::step("making a channel")(errno))
}

/// Connects to a socket of QEMU. The QEMU of an ordinary user runs as that user: another user who listens there does not learn the
/// command.
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

/// Reads a console for as long as it is there: a guest whose console is not read stands still. `shown` prints it.
fn listen(
    mut console: UnixStream,
    kept: Arc<Mutex<Vec<u8>>>,
    listener: Sender<Infallible>,
    shown: bool,
) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            if shown {
                // A serial port ends lines with both characters. A failure to print is no reason to stop reading.
                let text = printable(&String::from_utf8_lossy(bytes).replace('\r', ""));
                let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
            }
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(bytes);
            let excess = kept.len().saturating_sub(KEPT);
            kept.drain(..excess);
        }
        drop(listener);
    });
}

impl GuestOutput {
    /// Returns the output, or the end of it, once the guest has ended.
    #[must_use]
    pub fn read(&self) -> String {
        match self {
            Self::File(path) => std::fs::read_to_string(path).unwrap_or_default(),
            Self::Consoles(output) => {
                let _ = output.listeners.recv_timeout(END);
                let bytes = output.bytes.lock().unwrap_or_else(PoisonError::into_inner);
                String::from_utf8_lossy(&bytes).replace('\r', "")
            }
        }
    }
}
