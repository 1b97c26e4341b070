//! A connection that is passed on. What it carries goes from socket to socket in the kernel (splice(2)), through a pipe that is
//! only there while something is in it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::libc::linger;
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use nix::unistd::pipe2;

use super::{Targets, Token};

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
    server: TcpStream,
    /// Where else it may be answered; none once it is.
    targets: Option<Targets>,
    up: Flow,
    down: Flow,
}

impl Stream {
    /// Begins to pass on what was accepted; where nobody answers it is reset.
    pub(super) fn begin(
        client: TcpStream,
        mut targets: Targets,
        id: u64,
        epoll: &Epoll,
    ) -> Option<Self> {
        let prepared = client
            .set_nonblocking(true)
            .and_then(|()| client.set_nodelay(true));
        let server = prepared.ok().and_then(|()| reach(&mut targets, id, epoll));
        let Some(server) = server.filter(|_| watch(&client, id, epoll).is_ok()) else {
            reset(&client);
            return None;
        };
        Some(Self {
            client,
            server,
            targets: Some(targets),
            up: Flow::default(),
            down: Flow::default(),
        })
    }

    /// Goes on as far as it can without waiting.
    pub(super) fn advance(&mut self, id: u64, epoll: &Epoll, pipes: &mut Pipes) -> Step {
        if let Some(targets) = &mut self.targets {
            match connected(&self.server) {
                Ok(false) => return Step::Wait,
                Ok(true) => self.targets = None,
                Err(error) => {
                    targets.failed(&error);
                    let Some(server) = reach(targets, id, epoll) else {
                        reset(&self.client);
                        return Step::Over;
                    };
                    self.server = server;
                    return Step::Wait;
                }
            }
        }
        match self.carry(pipes) {
            Ok(step) => step,
            // Neither side is left to believe that it has heard all.
            Err(_) => {
                reset(&self.client);
                reset(&self.server);
                Step::Over
            }
        }
    }

    fn carry(&mut self, pipes: &mut Pipes) -> io::Result<Step> {
        let mut moves = true;
        for _ in 0..ROUNDS {
            moves = self.up.carry(&self.client, &self.server, pipes)?
                | self.down.carry(&self.server, &self.client, pipes)?;
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
    /// Moves what can be moved at once; says whether that was anything.
    fn carry(&mut self, from: &TcpStream, to: &TcpStream, pipes: &mut Pipes) -> io::Result<bool> {
        if self.is_over {
            return Ok(false);
        }
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => pipes.take()?,
        };
        let mut moved = false;
        if !self.has_ended
            && let Some(count) = transfer(from.as_fd(), pipe.writer.as_fd(), MOST)?
        {
            self.held += count;
            self.has_ended = count == 0;
            moved = true;
        }
        if self.held > 0
            && let Some(count) = transfer(pipe.reader.as_fd(), to.as_fd(), self.held)?
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
            let _ = to.shutdown(Shutdown::Write);
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

/// Begins a connection to the first target that does not refuse at once.
fn reach(targets: &mut Targets, id: u64, epoll: &Epoll) -> Option<TcpStream> {
    while let Some(target) = targets.next() {
        match begin(target).and_then(|server| watch(&server, id, epoll).map(|()| server)) {
            Ok(server) => return Some(server),
            Err(error) => targets.failed(&error),
        }
    }
    None
}

fn begin(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let server = TcpStream::from(socket);
    server.set_nodelay(true)?;
    Ok(server)
}

/// Whether a connection that was begun is there.
fn connected(server: &TcpStream) -> io::Result<bool> {
    if let Some(error) = server.take_error()? {
        return Err(error);
    }
    match server.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has epoll tell of every change: who is told goes on until it would have to wait.
fn watch(socket: &TcpStream, id: u64, epoll: &Epoll) -> io::Result<()> {
    let changes =
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    epoll.add(socket, Token::Stream(id).event(changes))?;
    Ok(())
}

/// Has the other end of a connection see an error, and not an end, once it is dropped.
fn reset(socket: &TcpStream) {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(socket, sockopt::Linger, &at_once);
}
