//! A connection that is passed on. What it carries goes from socket to socket in the kernel (splice(2)), through a pipe that is
//! only there while something is in it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use guest_init::channel::wire::Kind;
use guest_init::tunnel::Carried;
use guest_init::tunnel::targets::{Targets, begin, connected};
use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::libc::linger;
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::pipe2;

use super::seats::{Seat, bound};
use super::{Token, Way};

/// What tells of changes, and the way in that is tried last.
type Through<'a> = (&'a Epoll, Option<Way<'a>>);

/// Most bytes that one splice(2) moves: what a pipe holds.
const MOST: usize = 64 * 1024;

/// How often both directions are moved before others have their turn.
const ROUNDS: usize = 8;

/// Pipes that are kept for the next who needs one.
const SPARE: usize = 32;

/// What a connection needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until epoll tells of it.
    Wait,
    /// Another turn.
    Again,
    /// It has ended.
    Over,
}

/// A connection: the one that was accepted, and its other half on the other side.
#[derive(Debug)]
pub(super) struct Stream {
    client: TcpStream,
    server: Server,
    /// Where else it may be answered; none once it is.
    targets: Option<Targets>,
    up: Flow,
    down: Flow,
    seat: Seat,
}

/// The other half.
#[derive(Debug)]
enum Server {
    Connection(TcpStream),
    Carried(Carried),
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
    /// Whether what ends here has not ended well.
    fn is_reset(&self) -> bool {
        match self {
            // Its kernel says so itself.
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
    /// Begins to pass on what was accepted; where nobody answers it is reset, and its seat given back.
    pub(super) fn begin(
        client: TcpStream,
        mut targets: Targets,
        id: u64,
        through: Through<'_>,
        seat: Seat,
    ) -> Result<Self, Seat> {
        let prepared = client
            .set_nonblocking(true)
            .and_then(|()| client.set_nodelay(true))
            .and_then(|()| bound(client.as_fd(), seat.buffer()));
        let server = prepared
            .ok()
            .and_then(|()| reach(&mut targets, id, through, seat.buffer()));
        let Some(server) = server.filter(|_| watch(client.as_fd(), id, through.0).is_ok()) else {
            reset(&client);
            return Err(seat);
        };
        Ok(Self {
            client,
            server,
            targets: Some(targets),
            up: Flow::default(),
            down: Flow::default(),
            seat,
        })
    }

    /// Returns the connection's share of the host's memory.
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Goes on as far as it can without waiting.
    pub(super) fn advance(&mut self, id: u64, through: Through<'_>, pipes: &mut Pipes) -> Step {
        if let Some(targets) = &mut self.targets {
            match connected(self.server.as_fd()) {
                Ok(false) => return Step::Wait,
                Ok(true) => self.targets = None,
                Err(error) => {
                    targets.failed(&error);
                    let Some(server) = reach(targets, id, through, self.seat.buffer()) else {
                        reset(&self.client);
                        return Step::Over;
                    };
                    self.server = server;
                    // One that is there already is told of once more, by epoll.
                    return Step::Wait;
                }
            }
        }
        match self.carry(pipes) {
            Ok(step) => step,
            // Neither side is left to believe that it has heard all.
            Err(_) => {
                reset(&self.client);
                self.server.reset();
                Step::Over
            }
        }
    }

    fn carry(&mut self, pipes: &mut Pipes) -> io::Result<Step> {
        let mut moves = true;
        for _ in 0..ROUNDS {
            let (client, server) = (self.client.as_fd(), self.server.as_fd());
            let is_reset = || self.server.is_reset();
            moves = self.up.carry((client, &|| false), server, pipes)?
                | self.down.carry((server, &is_reset), client, pipes)?;
            if !moves {
                break;
            }
        }
        Ok(match (self.up.is_over && self.down.is_over, moves) {
            (true, _) => Step::Over,
            (false, true) => Step::Again,
            (false, false) => Step::Wait,
        })
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// Nothing more comes.
    has_ended: bool,
    /// That was passed on.
    is_over: bool,
}

impl Flow {
    /// Moves what can be moved at once; says whether that was anything. What is over after it was reset is an error.
    fn carry(
        &mut self,
        (from, is_reset): (BorrowedFd<'_>, &dyn Fn() -> bool),
        to: BorrowedFd<'_>,
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
            // One that has gone altogether is noticed by the other direction.
            let _ = shutdown(to.as_raw_fd(), Shutdown::Write);
        }
        Ok(moved)
    }
}

/// Moves bytes without waiting; `None` where that cannot be now.
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

/// Empty pipes.
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

/// Begins a connection to the first target that does not refuse at once, or takes the way that is no target.
fn reach(
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
        match begin(target).and_then(|server| prepare(server.as_fd()).map(|()| server)) {
            Ok(server) => return Some(Server::Connection(server)),
            Err(error) => targets.failed(&error),
        }
    }
    let carried = way?(Kind::Stream, targets.port()).ok()?;
    prepare(carried.socket.as_fd()).ok()?;
    Some(Server::Carried(carried))
}

/// Has epoll tell of every change: who is told goes on until it would have to wait.
fn watch(socket: BorrowedFd<'_>, id: u64, epoll: &Epoll) -> io::Result<()> {
    let changes =
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(socket, Token::Stream(id).event(changes))?;
    Ok(())
}

/// Has the other end of a connection see an error, and not an end, once it is dropped.
pub(super) fn reset(socket: &TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(socket, sockopt::Linger, &at_once);
}
