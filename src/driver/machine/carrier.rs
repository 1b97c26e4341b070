//! Connections into a virtual machine, carried by a thread over one of its ways.

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

use super::inside::{Machine, PATIENCE};
use crate::driver::Carrier;
use crate::error::{Error, Result};

/// Takes a way once the first connection is to be carried, and another one if that fails.
#[derive(Debug)]
pub struct Tunnelling {
    ways: PathBuf,
    thread: RefCell<Option<Thread>>,
}

/// The thread that carries. It ends once this is dropped.
#[derive(Debug)]
struct Thread {
    jobs: Sender<Connection>,
    /// A byte is written for each job.
    wake: UnixStream,
}

impl Tunnelling {
    /// Into the machine whose sockets are in `ways`.
    pub fn new(ways: &Path) -> Self {
        Self {
            ways: ways.to_owned(),
            thread: RefCell::new(None),
        }
    }

    /// Leaves a job to the thread that there is; gives it back where that has ended.
    fn leave(&self, job: Connection) -> std::result::Result<(), Connection> {
        let mut thread = self.thread.borrow_mut();
        match thread.as_mut() {
            None => Err(job),
            Some(there) => {
                there.jobs.send(job).map_err(|refused| refused.0)?;
                // Where there is no room for the byte, others tell it.
                let _ = there.wake.write(&[0]);
                Ok(())
            }
        }
    }

    fn begin(&self) -> io::Result<()> {
        let (jobs, waiting) = channel();
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let ways = self.ways.clone();
        thread::Builder::new()
            .name("tunnel".to_owned())
            .spawn(move || {
                if let Err(error) = carry(ways, &waiting, woken) {
                    log::warn!("carrying connections into the virtual machine: {error}");
                }
                waiting.try_iter().for_each(refuse);
            })?;
        *self.thread.borrow_mut() = Some(Thread { jobs, wake });
        Ok(())
    }
}

impl Carrier for Tunnelling {
    fn carry(&self, kind: Kind, port: u16) -> io::Result<Connection> {
        let spoken = match kind {
            Kind::Stream => SockType::Stream,
            Kind::Datagrams => SockType::SeqPacket,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, spoken, None, flags)?;
        // What nobody has read yet is counted for who has written it (unix(7)). The kernel doubles it; a datagram has to fit in whole.
        setsockopt(&theirs, sockopt::SndBuf, &(64 << 10))?;
        let is_reset = Arc::default();
        let job = Connection {
            kind,
            port,
            socket: theirs,
            is_reset: Arc::clone(&is_reset),
        };
        if let Err(job) = self.leave(job) {
            self.begin()?;
            self.leave(job)
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

/// Ends what is not carried.
fn refuse(job: Connection) {
    job.is_reset.store(true, Ordering::Release);
}

/// Carries what there is until nobody has any more, or the machine wants no more.
fn carry(ways: PathBuf, jobs: &Receiver<Connection>, mut woken: UnixStream) -> Result<()> {
    let way = Machine::at(ways).attached(PATIENCE)?;
    let (mut link, _lock) = way.into_asked(&AgentRequest::Tunnel)?;
    let mut tunnel = Tunnel::of_host(&mut link);
    let mut buffer = [0; 256];
    loop {
        while matches!(woken.read(&mut buffer), Ok(1..)) {}
        loop {
            match jobs.try_recv() {
                Ok(job) => tunnel.open(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        let turn = tunnel.poll_once(Some(woken.as_fd()));
        match turn.map_err(Error::step("carrying connections"))? {
            Progress::Made => {}
            Progress::Closed { reason: None, .. } => return Ok(()),
            Progress::Closed {
                reason: Some(reason),
                ..
            } => return Err(Error::refused(reason)),
        }
    }
}
