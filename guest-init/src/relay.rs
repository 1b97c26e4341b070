//! Between the caller's standard streams and a command in the sandbox.
//!
//! Without a terminal the command has the caller's streams themselves: nothing is copied and nothing can be
//! lost. With one it gets a terminal of the sandbox, since the caller's would let it type into the
//! caller's session (`TIOCSTI`) and has no name inside.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, read, setsid, write};

use crate::process::{copy_window_size, spawn, take_terminal};

/// Signals that are passed on to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

/// Runs `child` in a process of its own and gives its exit status, 128+N for signal N. `child` replaces its
/// process; if it returns, its status and message are what went wrong.
pub fn run(terminal: bool, child: impl FnOnce() -> (u8, String)) -> Result<u8> {
    let mut signals = SigSet::empty();
    for signal in FORWARDED.iter().chain(&[Signal::SIGCHLD, Signal::SIGWINCH]) {
        signals.add(*signal);
    }
    signals.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("listening for signals")?;

    if terminal {
        let pty = Pty::open()?;
        let stdin = std::io::stdin();
        let _ = copy_window_size(stdin.as_fd(), pty.master.as_fd());
        let pid = spawn(|| {
            fail(
                pty.attach()
                    .map_or_else(|error| (125, format!("{error:#}")), |()| child()),
            )
        })?;
        drop(pty.slave);
        let _raw = RawMode::enter()?;
        relay(pid, &signals, Some(&pty.master))
    } else {
        let pid = spawn(|| fail(child()))?;
        relay(pid, &signals, None)
    }
}

fn fail((status, message): (u8, String)) -> u8 {
    let _ = writeln!(std::io::stderr(), "virt-sandbox: {message}");
    status
}

/// A terminal of the sandbox: its name is known there, so that `tty` and `ps` work.
struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Pty {
    fn open() -> Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).context("opening a terminal in the sandbox")?;
        grantpt(&master).context("opening a terminal in the sandbox")?;
        unlockpt(&master).context("opening a terminal in the sandbox")?;
        let name = ptsname_r(&master).context("naming the terminal")?;
        let slave = nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty())
            .with_context(|| format!("opening '{name}'"))?;
        Ok(Self {
            master: master.into(),
            slave,
        })
    }

    fn attach(&self) -> Result<()> {
        setsid().context("starting a session")?;
        take_terminal(self.slave.as_fd())?;
        dup2_stdin(&self.slave)?;
        dup2_stdout(&self.slave)?;
        dup2_stderr(&self.slave)?;
        Ok(())
    }
}

/// The caller's terminal in raw mode, for as long as this lives.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).context("setting the terminal to raw mode")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Passes on signals, and bytes where there is a terminal, until the command has ended.
fn relay(pid: Pid, signals: &SignalFd, terminal: Option<&OwnedFd>) -> Result<u8> {
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let mut input_open = terminal.is_some();
    let mut output_open = terminal.is_some();
    let mut status = None;
    let mut exchange = Exchange::default();
    loop {
        if let (Some(status), false) = (status, output_open) {
            return Ok(status);
        }
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(master) = terminal.filter(|_| output_open) {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, exchange.to_caller.is_empty());
            events.set(PollFlags::POLLOUT, !exchange.to_command.is_empty());
            polled.push(PollFd::new(master.as_fd(), events));
            let reads = input_open && exchange.to_command.is_empty();
            polled.push(PollFd::new(
                stdin.as_fd(),
                if reads {
                    PollFlags::POLLIN
                } else {
                    PollFlags::empty()
                },
            ));
        }
        // Once the command has ended, what is left in the terminal is taken without waiting: a
        // process it left behind may hold the terminal open for ever.
        let timeout = if status.is_some() {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        let ready = match poll(&mut polled, timeout) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("waiting for the command"),
        };
        let events: Vec<PollFlags> = polled
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        if ready == 0 {
            output_open = false;
            continue;
        }
        if !events[0].is_empty() {
            while let Ok(Some(signal)) = signals.read_signal() {
                match Signal::try_from(signal.ssi_signo as i32) {
                    Ok(Signal::SIGCHLD) => status = status.or(reap(pid)?),
                    Ok(Signal::SIGWINCH) => {
                        if let Some(master) = terminal {
                            let _ = copy_window_size(stdin.as_fd(), master.as_fd());
                        }
                    }
                    // A key typed at a terminal that is shared reaches the command without our help.
                    Ok(_) if terminal.is_none() && signal.ssi_code == nix::libc::SI_KERNEL => {}
                    Ok(other) => {
                        let _ = kill(pid, other);
                    }
                    Err(_) => {}
                }
            }
        }
        let Some(master) = terminal.filter(|_| events.len() > 1) else {
            continue;
        };
        let wakes = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        if events[1].intersects(wakes) && exchange.to_caller.is_empty() {
            // EIO is what a terminal says when no process has it open any more.
            output_open = exchange.fill_to_caller(master.as_fd())?;
        }
        if events[1].contains(PollFlags::POLLOUT) {
            exchange.drain_to_command(master.as_fd())?;
        }
        if events[2].intersects(wakes) && exchange.to_command.is_empty() {
            input_open = exchange.fill_to_command(stdin.as_fd())?;
        }
        exchange.drain_to_caller(stdout.as_fd())?;
    }
}

/// Bytes on their way, a page of each direction at the most.
#[derive(Default)]
struct Exchange {
    to_caller: Vec<u8>,
    to_command: Vec<u8>,
}

/// What a terminal reads as the end of its input (`VEOF`).
const END_OF_INPUT: u8 = 4;

impl Exchange {
    fn fill_to_caller(&mut self, master: BorrowedFd<'_>) -> Result<bool> {
        let mut buffer = [0; 4096];
        match read(master, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => Ok(false),
            Ok(count) => {
                self.to_caller.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
            Err(error) => Err(error).context("reading the command's terminal"),
        }
    }

    fn fill_to_command(&mut self, stdin: BorrowedFd<'_>) -> Result<bool> {
        let mut buffer = [0; 4096];
        match read(stdin, &mut buffer) {
            Ok(0) => {
                self.to_command.push(END_OF_INPUT);
                Ok(false)
            }
            Ok(count) => {
                self.to_command.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
            Err(error) => Err(error).context("reading standard input"),
        }
    }

    fn drain_to_command(&mut self, master: BorrowedFd<'_>) -> Result<()> {
        match write(master, &self.to_command) {
            Ok(count) => {
                self.to_command.drain(..count);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("writing to the command's terminal"),
        }
        Ok(())
    }

    fn drain_to_caller(&mut self, stdout: BorrowedFd<'_>) -> Result<()> {
        while !self.to_caller.is_empty() {
            match write(stdout, &self.to_caller) {
                Ok(count) => {
                    self.to_caller.drain(..count);
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error).context("writing to standard output"),
            }
        }
        Ok(())
    }
}

fn reap(pid: Pid) -> Result<Option<u8>> {
    Ok(
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).context("waiting for the command")? {
            WaitStatus::Exited(_, code) => Some(u8::try_from(code).unwrap_or(u8::MAX)),
            WaitStatus::Signaled(_, signal, _) => Some(128 + signal as u8),
            WaitStatus::Stopped(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_) => None,
        },
    )
}
