//! Relay between the caller's standard streams and a command in the sandbox.
//!
//! The command leads a session of its own, without the caller's terminal. It gets pipes of the caller as they are, and pipes of the
//! sandbox for all other streams, or a terminal of the sandbox with `--terminal` ([`crate::stdio::streams`]). This process copies the
//! data, outside of the pid namespace of the sandbox.

mod flow;
mod streams;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::flow::Flow;
pub use self::streams::Streams;
use self::streams::{ChildStdio, Flows};
use crate::process::{default_action, end_with_parent, spawn};
use crate::stdio::signals::{FORWARDED, TERMINATING};
use crate::stdio::terminal::{RawMode, set_window_size, window_size};

/// Exit status if the command succeeded but output was lost.
const LOST: u8 = 125;

/// Milliseconds between checks whether the caller's job is in the foreground again: there is no event for it.
const FOREGROUND_CHECK: u16 = 200;

/// Runs `child` in a new process and returns the exit status, 128+N for signal N. `child` executes the command; if it returns, it has
/// failed with this status and message.
pub fn run(streams: Streams, child: impl FnOnce() -> (u8, String)) -> Result<u8> {
    // With SIGCHLD ignored, as a caller may leave it, there is no status to wait for (sigaction(2)).
    default_action(Signal::SIGCHLD).context("listening for signals")?;
    let mut mask = SigSet::empty();
    let others = [Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGTSTP];
    for signal in FORWARDED.iter().chain(&others) {
        mask.add(*signal);
    }
    mask.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("listening for signals")?;

    let (theirs, flows) = streams.connect()?;
    if let Some(master) = &flows.master {
        copy_window_size(std::io::stdin().as_fd(), master.as_fd());
    }
    let pid = spawn(|| {
        // Access to files of the sandbox may block for ever.
        end_with_parent();
        let begun = theirs.attach();
        let begun = begun.and_then(|()| mask.thread_unblock().context("unblocking signals"));
        fail(begun.map_or_else(|error| (LOST, format!("{error:#}")), |()| child()))
    })?;
    drop::<ChildStdio>(theirs);
    let Flows {
        input,
        outputs,
        master,
    } = flows;
    let terminal = master.map(|master| -> Result<Terminal> {
        let raw = RawMode::enter().context("setting the terminal to raw mode")?;
        Ok(Terminal { master, raw })
    });
    let relay = Relay {
        pid,
        input,
        outputs,
        terminal: terminal.transpose()?,
        status: None,
        has_lost: false,
        gives_up: false,
    };
    relay.run(&signals)
}

fn fail((status, message): (u8, String)) -> u8 {
    let _ = writeln!(std::io::stderr(), "virt-sandbox: {message}");
    status
}

/// Both ends of a session with a terminal.
struct Terminal {
    /// Master of the command's terminal.
    master: OwnedFd,
    /// Raw mode of the caller's terminal, if it has one.
    raw: Option<RawMode>,
}

impl Terminal {
    fn resize(&self) {
        copy_window_size(std::io::stdin().as_fd(), self.master.as_fd());
    }
}

/// Copies the window size, if both are terminals.
fn copy_window_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok((rows, columns)) = window_size(from) {
        let _ = set_window_size(to, rows, columns);
    }
}

/// A command that runs, or has ended and has output left.
struct Relay {
    pid: Pid,
    input: Option<Flow>,
    outputs: Vec<Flow>,
    terminal: Option<Terminal>,
    status: Option<u8>,
    /// Whether output could not be written.
    has_lost: bool,
    /// Whether a signal has ended the wait for a reader of the remaining output.
    gives_up: bool,
}

impl Relay {
    /// Relays signals and data until the command has ended and all output is written.
    fn run(mut self, signals: &SignalFd) -> Result<u8> {
        loop {
            if let Some(status) = self.status {
                // Later input is for the caller.
                self.input = None;
                self.outputs.iter_mut().for_each(Flow::end);
                if self.gives_up || self.outputs.iter().all(Flow::is_over) {
                    return Ok(if self.has_lost && status == 0 {
                        LOST
                    } else {
                        status
                    });
                }
            }
            self.poll_once(signals)?;
        }
    }

    /// Waits for an event and handles it.
    fn poll_once(&mut self, signals: &SignalFd) -> Result<()> {
        // A background job that reads its terminal is stopped by SIGTTIN, or takes input of another job.
        let reads = self.input.as_ref().is_some_and(Flow::reads_ours);
        let input = self.input.iter().flat_map(|input| input.wants(reads));
        let outputs = self.outputs.iter().flat_map(|output| output.wants(true));
        let mut polled = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        polled.extend(
            input
                .chain(outputs)
                .map(|(fd, events)| PollFd::new(fd, events)),
        );
        // Once the command has ended, the rest of its output is read without waiting: a process that it left behind may hold the
        // streams open for ever.
        let is_left = self.status.is_some() && self.outputs.iter().all(Flow::is_idle);
        let timeout = match (is_left, self.input.is_some() && !reads) {
            (true, _) => PollTimeout::ZERO,
            (false, true) => FOREGROUND_CHECK.into(),
            (false, false) => PollTimeout::NONE,
        };
        let is_silent = match poll(&mut polled, timeout) {
            Ok(count) => count == 0,
            Err(Errno::EINTR) => false,
            Err(error) => return Err(error).context("waiting for the command"),
        };
        let ready: Vec<(i32, PollFlags)> = (polled.iter())
            .filter_map(|fd| Some((fd.as_fd().as_raw_fd(), fd.revents()?)))
            .filter(|(_, events)| !events.is_empty())
            .collect();
        if is_silent && is_left {
            self.outputs.iter_mut().for_each(Flow::stop);
        }
        if ready
            .iter()
            .any(|(fd, _)| *fd == signals.as_fd().as_raw_fd())
        {
            self.take_signals(signals)?;
        }
        if let Some(Err(failure)) = self.input.as_mut().map(|input| input.advance(&ready)) {
            fail((0, failure.to_string()));
        }
        for output in &mut self.outputs {
            if let Err(failure) = output.advance(&ready) {
                fail((0, failure.to_string()));
                self.has_lost = true;
            }
        }
        Ok(())
    }

    fn take_signals(&mut self, signals: &SignalFd) -> Result<()> {
        while let Ok(Some(signal)) = signals.read_signal() {
            let Ok(which) = Signal::try_from(signal.ssi_signo as i32) else {
                continue;
            };
            if self.status.is_some() {
                // The command is reaped: its pid may belong to another process.
                self.gives_up |= TERMINATING.contains(&which);
            } else if which == Signal::SIGCHLD {
                self.status = reap(self.pid)?;
            } else if which == Signal::SIGTSTP {
                self.suspend();
            } else if which == Signal::SIGCONT {
                self.resume();
            } else if which == Signal::SIGWINCH {
                self.terminal.iter().for_each(Terminal::resize);
            } else {
                // A key at the terminal signals all processes of a job, which includes the command's group.
                let is_typed = signal.ssi_code == nix::libc::SI_KERNEL;
                self.pass_on(which, is_typed);
            }
        }
        Ok(())
    }

    fn pass_on(&self, signal: Signal, to_group: bool) {
        let group = Pid::from_raw(-self.pid.as_raw());
        // The command has no group of its own before setsid(2).
        if !to_group || kill(group, signal) == Err(Errno::ESRCH) {
            let _ = kill(self.pid, signal);
        }
    }

    /// Stops the command and this process, with the caller's mode of the terminal restored. `SIGTSTP` does not stop the command, whose
    /// process group is orphaned (setpgid(2)).
    fn suspend(&self) {
        let raw = self.terminal.as_ref().and_then(|it| it.raw.as_ref());
        raw.inspect(|raw| raw.leave());
        self.pass_on(Signal::SIGSTOP, true);
        let _ = raise(Signal::SIGSTOP);
        self.resume();
    }

    /// Continues after a stop. A shell may have changed the mode of the terminal, and the window its size.
    fn resume(&self) {
        if let Some(terminal) = &self.terminal {
            let _ = terminal.raw.as_ref().map(RawMode::enter_again);
            terminal.resize();
        }
        self.pass_on(Signal::SIGCONT, true);
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
