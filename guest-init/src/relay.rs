//! Between the caller's standard streams and a command in the sandbox.
//!
//! Without a terminal the command has the caller's streams themselves: nothing is copied and nothing can be
//! lost. With one it gets a terminal of the sandbox, since the caller's would let it type into the
//! caller's session (`TIOCSTI`) and has no name inside.

mod exchange;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::exchange::Exchange;
use crate::process::{default_action, spawn};
use crate::pty::Pty;
use crate::terminal::{RawMode, set_window_size, window_size};

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
    // Were it ignored, as a caller may leave it, the kernel would not say that the command ended.
    default_action(Signal::SIGCHLD).context("listening for signals")?;
    let mut signals = SigSet::empty();
    for signal in FORWARDED.iter().chain(&[Signal::SIGCHLD, Signal::SIGWINCH]) {
        signals.add(*signal);
    }
    if terminal {
        // Otherwise the command is stopped together with us.
        signals.add(Signal::SIGTSTP);
    }
    signals.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("listening for signals")?;

    if terminal {
        let pty = Pty::open()?;
        let stdin = std::io::stdin();
        copy_window_size(stdin.as_fd(), pty.master.as_fd());
        let pid = spawn(|| {
            fail(
                pty.attach()
                    .map_or_else(|error| (125, format!("{error:#}")), |()| child()),
            )
        })?;
        drop(pty.slave);
        let terminal = Terminal {
            master: pty.master,
            raw: RawMode::enter().context("setting the terminal to raw mode")?,
        };
        relay(pid, &signals, Some(terminal))
    } else {
        let pid = spawn(|| fail(child()))?;
        relay(pid, &signals, None)
    }
}

fn fail((status, message): (u8, String)) -> u8 {
    let _ = writeln!(std::io::stderr(), "virt-sandbox: {message}");
    status
}

/// Both ends of a session with a terminal.
struct Terminal {
    /// Of the terminal the command has.
    master: OwnedFd,
    /// The caller's, if it has one.
    raw: Option<RawMode>,
}

impl Terminal {
    /// Stops us as the caller wants, with its terminal as it was.
    fn suspend(&self) {
        if let Some(raw) = &self.raw {
            raw.leave();
        }
        let _ = raise(Signal::SIGSTOP);
        self.resume();
    }

    /// After a stop: a shell has set its terminal to its own mode, and the window may be another.
    fn resume(&self) {
        if let Some(raw) = &self.raw {
            let _ = raw.enter_again();
        }
        self.resize();
    }

    fn resize(&self) {
        copy_window_size(std::io::stdin().as_fd(), self.master.as_fd());
    }
}

/// Where one of them is no terminal there is no size to copy.
fn copy_window_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok((rows, columns)) = window_size(from) {
        let _ = set_window_size(to, rows, columns);
    }
}

/// Passes on signals, and bytes where there is a terminal, until the command has ended.
fn relay(pid: Pid, signals: &SignalFd, terminal: Option<Terminal>) -> Result<u8> {
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let mut exchange = Exchange::new(terminal.is_some());
    let mut status = None;
    loop {
        if let Some(status) = status {
            exchange.end();
            if exchange.is_over() {
                return Ok(status);
            }
        }
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(terminal) = &terminal {
            // What nothing is wanted of is left out: poll(2) would report its end again and again.
            let all = [
                (terminal.master.as_fd(), exchange.wanted_of_command()),
                (stdin.as_fd(), exchange.wanted_of_stdin()),
                (stdout.as_fd(), exchange.wanted_of_stdout()),
            ];
            let wanted = all.into_iter().filter(|(_, events)| !events.is_empty());
            polled.extend(wanted.map(|(fd, events)| PollFd::new(fd, events)));
        }
        // Once the command has ended, what is left in the terminal is taken without waiting: a
        // process it left behind may hold the terminal open for ever.
        let timeout = if status.is_some() && exchange.to_caller.is_empty() {
            PollTimeout::ZERO
        } else {
            PollTimeout::NONE
        };
        match poll(&mut polled, timeout) {
            Ok(0) => exchange.output_open = false,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the command"),
        }
        let ready: Vec<(i32, PollFlags)> = polled
            .iter()
            .map(|fd| {
                let events = fd.revents().unwrap_or(PollFlags::empty());
                (fd.as_fd().as_raw_fd(), events)
            })
            .collect();
        for (fd, events) in ready {
            if events.is_empty() {
                continue;
            }
            if fd == signals.as_fd().as_raw_fd() {
                while let Ok(Some(signal)) = signals.read_signal() {
                    match Signal::try_from(signal.ssi_signo as i32) {
                        Ok(Signal::SIGCHLD) if status.is_none() => status = reap(pid)?,
                        // The pid may be that of another process by now.
                        Ok(_) if status.is_some() => {}
                        Ok(signal_of) => {
                            let typed = signal.ssi_code == nix::libc::SI_KERNEL;
                            pass_on(signal_of, typed, pid, terminal.as_ref());
                        }
                        Err(_) => {}
                    }
                }
            } else if fd == stdin.as_fd().as_raw_fd() {
                exchange.fill_to_command(stdin.as_fd())?;
            } else if fd == stdout.as_fd().as_raw_fd() {
                exchange.drain_to_caller(stdout.as_fd())?;
            } else if let Some(terminal) = &terminal {
                exchange.fill_to_caller(terminal.master.as_fd())?;
                exchange.drain_to_command(terminal.master.as_fd())?;
            }
        }
    }
}

fn pass_on(signal: Signal, typed: bool, pid: Pid, terminal: Option<&Terminal>) {
    match (signal, terminal) {
        (Signal::SIGWINCH, Some(terminal)) => terminal.resize(),
        (Signal::SIGTSTP, Some(terminal)) => terminal.suspend(),
        (Signal::SIGCONT, Some(terminal)) => terminal.resume(),
        (Signal::SIGWINCH | Signal::SIGCHLD, _) => {}
        // A key typed at a terminal that is shared reaches the command without our help.
        (_, None) if typed => {}
        (signal, _) => {
            let _ = kill(pid, signal);
        }
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
