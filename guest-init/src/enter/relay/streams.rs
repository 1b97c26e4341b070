//! Standard streams of a command, made from those of the caller.

use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use super::flow::{AtEnd, Flow, ROOM};
use crate::stdio::pty::Pty;
use crate::stdio::streams::{Direction, hand_down};

/// Standard streams of the caller as the command gets them.
#[derive(Debug)]
pub enum Streams {
    /// The command gets a terminal of the sandbox.
    Terminal,
    /// Pipes of the caller that are handed down to the command; a missing one is relayed.
    Pipes([Option<OwnedFd>; 3]),
}

/// Standard streams of a command.
#[derive(Debug)]
pub enum ChildStdio {
    /// A terminal.
    Terminal(OwnedFd),
    /// Pipes.
    Pipes([OwnedFd; 3]),
}

/// Relayed streams between the caller and a command.
#[derive(Debug)]
pub struct Flows {
    /// To the command.
    pub input: Option<Flow>,
    /// From the command.
    pub outputs: Vec<Flow>,
    /// Master of its terminal.
    pub master: Option<OwnedFd>,
}

impl Streams {
    /// Finds the streams of this process. To be called while `/proc` is that of the host.
    pub fn of_caller(terminal: bool) -> Self {
        if terminal {
            return Self::Terminal;
        }
        Self::Pipes([
            hand_down(stdin().as_fd(), Direction::Input),
            hand_down(stdout().as_fd(), Direction::Output),
            hand_down(stderr().as_fd(), Direction::Output),
        ])
    }

    /// Makes the remaining streams, in the sandbox. Takes over standard input and output of this process.
    pub fn connect(self) -> Result<(ChildStdio, Flows)> {
        match self {
            Self::Terminal => {
                let pty = Pty::open()?;
                let master = || copy(pty.master.as_fd());
                let input = Flow::input(copy(stdin().as_fd())?, master()?, AtEnd::Type);
                let output = Flow::output("standard output", master()?, copy(stdout().as_fd())?);
                let flows = Flows {
                    input: Some(input),
                    outputs: vec![output],
                    master: Some(pty.master),
                };
                Ok((ChildStdio::Terminal(pty.slave), flows))
            }
            Self::Pipes([input, output, error]) => {
                let mut flows = Flows {
                    input: None,
                    outputs: vec![],
                    master: None,
                };
                let is_one = output.is_none() && error.is_none() && are_one();
                let input = match input {
                    Some(pipe) => pipe,
                    None => {
                        let (theirs, ours) = pipe(Direction::Input)?;
                        flows.input = Some(Flow::input(copy(stdin().as_fd())?, ours, AtEnd::Close));
                        theirs
                    }
                };
                let mut relayed = |name, stream: BorrowedFd<'_>| -> Result<OwnedFd> {
                    let (theirs, ours) = pipe(Direction::Output)?;
                    flows.outputs.push(Flow::output(name, ours, copy(stream)?));
                    Ok(theirs)
                };
                let output = match output {
                    Some(pipe) => pipe,
                    None => relayed("standard output", stdout().as_fd())?,
                };
                let error = match error {
                    Some(pipe) => pipe,
                    // One pipe keeps the order of both outputs.
                    None if is_one => copy(output.as_fd())?,
                    None => relayed("standard error", stderr().as_fd())?,
                };
                let_go()?;
                Ok((ChildStdio::Pipes([input, output, error]), flows))
            }
        }
    }
}

impl ChildStdio {
    /// Makes these the standard streams of this process, in a new session.
    pub fn attach(&self) -> Result<()> {
        match self {
            Self::Terminal(slave) => Pty::attach(slave.as_fd()),
            Self::Pipes([input, output, error]) => {
                setsid().context("starting a session")?;
                dup2_stdin(input).context("connecting the streams")?;
                dup2_stdout(output).context("connecting the streams")?;
                dup2_stderr(error).context("connecting the streams")
            }
        }
    }
}

fn copy(stream: BorrowedFd<'_>) -> Result<OwnedFd> {
    stream
        .try_clone_to_owned()
        .context("copying a file descriptor")
}

/// Returns whether standard output and standard error are the same file.
fn are_one() -> bool {
    let (Ok(output), Ok(error)) = (fstat(stdout()), fstat(stderr())) else {
        return false;
    };
    (output.st_dev, output.st_ino) == (error.st_dev, error.st_ino)
}

/// Makes a pipe in the sandbox. Returns the command's end, and ours, which is nonblocking.
fn pipe(direction: Direction) -> Result<(OwnedFd, OwnedFd)> {
    let doing = "making a pipe";
    let (read, write) = pipe2(OFlag::O_CLOEXEC).context(doing)?;
    let (theirs, ours) = match direction {
        Direction::Input => (read, write),
        Direction::Output => (write, read),
    };
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context(doing)?;
    // A large pipe needs fewer system calls. It may be limited, which does no harm.
    let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(ROOM as i32));
    // Every user that the command may become can open /dev/stdout. No other process has a path to the pipe.
    fchmod(theirs.as_fd(), Mode::from_bits_truncate(0o666)).context(doing)?;
    Ok((theirs, ours))
}

/// Replaces standard input and output, so that this process does not hold the caller's streams open.
fn let_go() -> Result<()> {
    let (input, output) = pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
    dup2_stdin(input).context("letting go of the streams")?;
    dup2_stdout(output).context("letting go of the streams")
}
