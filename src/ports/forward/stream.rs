//! Forwarding of a connection. Data goes from socket to socket in the kernel (splice(2)), through a pipe that
//! exists only while it holds something.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use guest_init::channel::wire::Kind;
use guest_init::tunnel::Connection;
use guest_init::tunnel::targets::{Targets, is_connected, start_connect};
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::libc::linger;
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::pipe2;

use super::slots::{Slot, bound};
use super::{Connector, Token};

/// Epoll instance, and the connector that is tried last.
type Through<'a> = (&'a Epoll, Option<Connector<'a>>);

/// Bytes that one splice(2) moves at most: the capacity of a pipe.
const MOST: usize = 64 * 1024;

/// Rounds over both directions before other connections get their turn.
const ROUNDS: usize = 8;

/// Empty pipes that are kept for reuse.
const SPARE: usize = 32;

/// Progress of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Blocked until epoll reports an event.
    Blocked,
    /// Ready for another turn.
    Ready,
    /// Closed.
    Closed,
}

/// Accepted connection, and its other half on the other side.
#[derive(Debug)]
pub(super) struct Stream {
    client: TcpStream,
    server: Server,
    /// Further targets; `None` once the connection is established.
    targets: Option<Targets>,
    up: Flow,
    down: Flow,
    slot: Slot,
}

/// Half of the connection on the other side.
#[derive(Debug)]
enum Server {
    Connection(TcpStream),
    Carried(Connection),
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Connection(socket) => socket.as_fd(),
            Self::Carried(carried) => carried.socket.as_fd(),
        }
    }
}

impl Server {
    /// Returns whether the other end was reset instead of closed.
    fn is_reset(&self) -> bool {
        match self {
            // The kernel reports it as an error of the socket.
            Self::Connection(_) => false,
            Self::Carried(carried) => carried.is_reset.load(Ordering::Acquire),
        }
    }

    fn reset(&self) {
        match self {
            Self::Connection(socket) => reset(socket),
            Self::Carried(carried) => carried.is_reset.store(true, Ordering::Release),
        }
    }
}

impl Stream {
    /// Begins to forward an accepted connection. If nobody answers, the client is reset and its slot
    /// returned.
    pub(super) fn begin(
        client: TcpStream,
        mut targets: Targets,
        id: u64,
        through: Through<'_>,
        slot: Slot,
    ) -> Result<Self, Slot> {
        let prepared = client
            .set_nonblocking(true)
            .and_then(|()| client.set_nodelay(true))
            .and_then(|()| bound(client.as_fd(), slot.buffer()));
        let server = prepared
            .ok()
            .and_then(|()| connect(&mut targets, id, through, slot.buffer()));
        let Some(server) = server.filter(|_| watch(client.as_fd(), id, through.0).is_ok()) else {
            reset(&client);
            return Err(slot);
        };
        Ok(Self {
            client,
            server,
            targets: Some(targets),
            up: Flow::default(),
            down: Flow::default(),
            slot,
        })
    }

    /// Returns the connection's share of the host's memory.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Moves data until it would block.
    pub(super) fn advance(&mut self, id: u64, through: Through<'_>, pipes: &mut Pipes) -> Progress {
        if let Some(targets) = &mut self.targets {
            match is_connected(self.server.as_fd()) {
                Ok(false) => return Progress::Blocked,
                Ok(true) => self.targets = None,
                Err(error) => {
                    targets.failed(&error);
                    let Some(server) = connect(targets, id, through, self.slot.buffer()) else {
                        reset(&self.client);
                        return Progress::Closed;
                    };
                    self.server = server;
                    // epoll reports an established connection once more.
                    return Progress::Blocked;
                }
            }
        }
        match self.carry(pipes) {
            Ok(step) => step,
            // Resets both sides, so that neither believes it has received everything.
            Err(_) => {
                reset(&self.client);
                self.server.reset();
                Progress::Closed
            }
        }
    }

    fn carry(&mut self, pipes: &mut Pipes) -> io::Result<Progress> {
        let mut moves = true;
        for _ in 0..ROUNDS {
            let (client, server) = (self.client.as_fd(), self.server.as_fd());
            let is_reset = || self.server.is_reset();
            moves = self.up.carry(client, server, &|| false, pipes)?
                | self.down.carry(server, client, &is_reset, pipes)?;
            if !moves {
                break;
            }
        }
        Ok(match (self.up.is_over && self.down.is_over, moves) {
            (true, _) => Progress::Closed,
            (false, true) => Progress::Ready,
            (false, false) => Progress::Blocked,
        })
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The sender has finished.
    has_ended: bool,
    /// The end was forwarded to the receiver.
    is_over: bool,
}

impl Flow {
    /// Moves the available data; returns whether there was any. A stream that ends by a reset is an
    /// error; `is_reset` is asked once `from` has ended.
    fn carry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        is_reset: &dyn Fn() -> bool,
        pipes: &mut Pipes,
    ) -> io::Result<bool> {
        if self.is_over {
            return Ok(false);
        }
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => pipes.take()?,
        };
        let mut moved = false;
        if !self.has_ended
            && let Some(count) = transfer(from, pipe.writer.as_fd(), MOST)?
        {
            self.held += count;
            self.has_ended = count == 0;
            if self.has_ended && is_reset() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            moved = true;
        }
        if self.held > 0
            && let Some(count) = transfer(pipe.reader.as_fd(), to, self.held)?
        {
            self.held = self.held.saturating_sub(count);
            moved = true;
        }
        if self.held > 0 {
            self.pipe = Some(pipe);
            return Ok(moved);
        }
        pipes.give(pipe);
        if self.has_ended {
            self.is_over = true;
            // The other direction notices a peer that is gone.
            let _ = shutdown(to.as_raw_fd(), Shutdown::Write);
        }
        Ok(moved)
    }
}

/// Moves bytes without blocking; `None` if that is not possible now.
fn transfer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<Option<usize>> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    loop {
        match splice(from, None, to, None, most, flags) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Pool of empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    spare: Vec<Pipe>,
}

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Pipe { reader, writer })
    }

    fn give(&mut self, pipe: Pipe) {
        if self.spare.len() < SPARE {
            self.spare.push(pipe);
        }
    }
}

/// Connects to the first target that does not refuse at once, or through the connector.
fn connect(
    targets: &mut Targets,
    id: u64,
    (epoll, way): Through<'_>,
    buffer: usize,
) -> Option<Server> {
    let prepare = |server: BorrowedFd<'_>| {
        bound(server, buffer)?;
        watch(server, id, epoll)
    };
    while let Some(target) = targets.next() {
        match start_connect(target).and_then(|server| prepare(server.as_fd()).map(|()| server)) {
            Ok(server) => return Some(Server::Connection(server)),
            Err(error) => targets.failed(&error),
        }
    }
    let carried = way?(Kind::Stream, targets.port()).ok()?;
    prepare(carried.socket.as_fd()).ok()?;
    Some(Server::Carried(carried))
}

/// Registers a socket edge-triggered: after an event, data has to be moved until the call would block.
fn watch(socket: BorrowedFd<'_>, id: u64, epoll: &Epoll) -> io::Result<()> {
    let changes =
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(socket, Token::Stream(id).event(changes))?;
    Ok(())
}

/// Makes the peer see an error instead of an end when the socket is dropped.
pub(super) fn reset(socket: &TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(socket, sockopt::Linger, &at_once);
}
