//! Connections into a machine, which a thread carries over one of its agent ports.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use guest_init::channel::agent_request::AgentRequest;
use guest_init::channel::wire::Kind;
use guest_init::tunnel::{Connection, Progress, Tunnel};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

use super::PATIENCE;
use super::channel::AgentPorts;
use crate::driver::guest::Connector;
use crate::error::{Error, Result};
use crate::sys::process::cpu_quota::CpuQuota;

/// Tunnel into a machine. It takes an agent port at the first connection, and another one if that fails.
#[derive(Debug)]
pub struct HostTunnel {
    ports: PathBuf,
    thread: RefCell<Option<Thread>>,
}

/// Handle on the thread of a tunnel, which ends once the handle is dropped.
#[derive(Debug)]
struct Thread {
    connections: Sender<Connection>,
    /// A byte is written for each connection.
    wake: UnixStream,
}

impl HostTunnel {
    /// Returns a tunnel into the machine whose sockets are in `ports`.
    pub fn new(ports: &Path) -> Self {
        Self {
            ports: ports.to_owned(),
            thread: RefCell::new(None),
        }
    }

    /// Hands a connection to the thread; returns it if the thread has ended.
    fn hand_over(&self, connection: Connection) -> std::result::Result<(), Connection> {
        let mut thread = self.thread.borrow_mut();
        match thread.as_mut() {
            None => Err(connection),
            Some(there) => {
                (there.connections.send(connection)).map_err(|refused| refused.0)?;
                // If there is no room for the byte, others wake it.
                let _ = there.wake.write(&[0]);
                Ok(())
            }
        }
    }

    fn start(&self, quota: &Arc<CpuQuota>) -> io::Result<()> {
        let (connections, waiting) = channel();
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (ports, quota) = (self.ports.clone(), Arc::clone(quota));
        thread::Builder::new()
            .name("tunnel".to_owned())
            .spawn(move || {
                if let Err(error) = carry(ports, &waiting, woken, &quota) {
                    log::warn!("carrying connections into the virtual machine: {error}");
                }
                waiting.try_iter().for_each(refuse);
            })?;
        *self.thread.borrow_mut() = Some(Thread { connections, wake });
        Ok(())
    }
}

impl Connector for HostTunnel {
    fn connect(&self, kind: Kind, port: u16, quota: &Arc<CpuQuota>) -> io::Result<Connection> {
        let socket_type = match kind {
            Kind::Stream => SockType::Stream,
            Kind::Datagrams => SockType::SeqPacket,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, socket_type, None, flags)?;
        // Unread bytes are counted for the writer (unix(7)). The kernel doubles the size; a datagram has to fit in whole.
        setsockopt(&theirs, sockopt::SndBuf, &(64 << 10))?;
        let is_reset = Arc::default();
        let connection = Connection {
            kind,
            port,
            socket: theirs,
            is_reset: Arc::clone(&is_reset),
        };
        if let Err(connection) = self.hand_over(connection) {
            self.start(quota)?;
            self.hand_over(connection)
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(Connection {
            kind,
            port,
            socket: ours,
            is_reset,
        })
    }
}

/// Resets a connection that cannot be carried.
fn refuse(connection: Connection) {
    connection.is_reset.store(true, Ordering::Release);
}

/// Carries connections until the tunnel is dropped, or the machine ends it.
fn carry(
    ports: PathBuf,
    connections: &Receiver<Connection>,
    mut woken: UnixStream,
    quota: &CpuQuota,
) -> Result<()> {
    let port = AgentPorts::new(ports).attach(PATIENCE)?;
    let (mut link, _lock) = port.into_asked(&AgentRequest::Tunnel)?;
    let mut tunnel = Tunnel::of_host(&mut link);
    let mut buffer = [0; 256];
    loop {
        while matches!(woken.read(&mut buffer), Ok(1..)) {}
        loop {
            match connections.try_recv() {
                Ok(connection) => tunnel.open(connection),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        if quota.pause() {
            continue;
        }
        let progress = tunnel.poll_once(Some(woken.as_fd()));
        match progress.map_err(Error::step("carrying connections"))? {
            Progress::Made => {}
            Progress::Closed { reason: None, .. } => return Ok(()),
            Progress::Closed {
                reason: Some(reason),
                ..
            } => return Err(Error::refused(reason)),
        }
    }
}
