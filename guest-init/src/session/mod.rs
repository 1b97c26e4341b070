//! Session: a command with its streams, signals and exit status on the channel.
//!
//! When the command of PID 1 has ended, all other processes of the sandbox are killed, so that its pipes are closed and no output is
//! lost. The last frame is the exit status.

mod start;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::start::Started;
use crate::channel::link::{Link, Sink, Source};
use crate::channel::wire::{Exit, Frame, Milestone, STARTED, SignalFrame, StreamId};
use crate::config::Command;
use crate::stdio::terminal::set_window_size;

/// Milliseconds for the host to close the channel after the last frame.
const CLOSE_TIMEOUT: u16 = 5000;

/// Runs `command` to its end and returns its exit status. `inherited` are streams of the caller, in the order of their numbers.
pub fn run(command: &Command, group: Group, inherited: Vec<OwnedFd>, link: &mut Link) -> Exit {
    match watch(command, group, inherited, link) {
        Ok(Outcome::Exit(exit)) => exit,
        // Nobody reads the status.
        Ok(Outcome::HostGone { .. }) => Exit::Signal {
            number: Signal::SIGKILL as u8,
        },
        Err(error) => Exit::Failed {
            reason: format!("{error:#}"),
        },
    }
}

/// Cgroup that a command is started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Group of the process that starts it.
    Own,
    /// Group of the payload of a virtual machine.
    Payload,
}

/// Outcome of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command has ended.
    Exit(Exit),
    /// The client on the host is gone.
    HostGone {
        /// Number with which the next client has attached, if there is one already.
        successor: Option<u64>,
    },
}

/// Sends the exit status and waits until the host has closed the channel: before, it may not have read the status.
pub fn send_exit(link: &mut Link, exit: &Exit) {
    link.send(&Frame::Exit(exit.clone()));
    let mut is_open = true;
    while is_open {
        let mut polled = [PollFd::new(link.as_fd(), link.wants())];
        match poll(&mut polled, CLOSE_TIMEOUT) {
            Ok(0) => return,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        let hung_up = polled[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
        is_open = link.flush().is_ok() && link.fill().unwrap_or(false) && !hung_up;
    }
}

struct Session<'a> {
    link: &'a mut Link,
    pid: Pid,
    stdin: Option<Sink>,
    outputs: Vec<(StreamId, Source)>,
    /// Master of the command's terminal, to resize it.
    terminal: Option<OwnedFd>,
    exit: Option<Exit>,
    host_is_there: bool,
    successor: Option<u64>,
}

/// Runs `command` as [`run`] does, and tells whether the client is still there.
pub fn watch(
    command: &Command,
    group: Group,
    inherited: Vec<OwnedFd>,
    link: &mut Link,
) -> Result<Outcome> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("listening for signals")?;

    let started = match start::start(command, group, inherited)? {
        Started::Running(running) => running,
        Started::Failed(exit) => return Ok(Outcome::Exit(exit)),
    };
    link.send(&Frame::Milestone(Milestone::now(STARTED)));
    let mut session = Session {
        link,
        pid: started.pid,
        stdin: started.stdin,
        outputs: started.outputs,
        terminal: started.terminal,
        exit: None,
        host_is_there: true,
        successor: None,
    };
    // Frames read together with the config: poll(2) does not report them again.
    session.handle_frames()?;
    while !session.is_over() {
        session.poll_once(&signals)?;
    }
    Ok(match session.exit.take() {
        Some(exit) if session.host_is_there => Outcome::Exit(exit),
        Some(_) => Outcome::HostGone {
            successor: session.successor,
        },
        None => {
            session.end_command();
            Outcome::HostGone {
                successor: session.successor,
            }
        }
    })
}

/// Milliseconds for a command to end after its client is gone.
const GRACE: u16 = 2000;

impl Session<'_> {
    fn is_over(&self) -> bool {
        let is_drained = self.outputs.iter().all(|(_, source)| !source.is_open());
        !self.host_is_there || (self.exit.is_some() && is_drained && self.link.is_flushed())
    }

    /// Waits for an event and handles it.
    fn poll_once(&mut self, signals: &SignalFd) -> Result<()> {
        let mut polled = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.link.as_fd(), self.link.wants()),
        ];
        let stdin = self.stdin.as_ref().and_then(Sink::wants);
        polled.extend(stdin.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
        let outputs = self.outputs.iter();
        let outputs = outputs.filter_map(|(_, source)| source.wants(self.link));
        polled.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = match self.is_left_open() {
            true => PollTimeout::ZERO,
            false => PollTimeout::NONE,
        };
        match poll(&mut polled, timeout) {
            Ok(0) => {
                for (channel, source) in &mut self.outputs {
                    source.close();
                    self.link.send(&Frame::End(*channel));
                }
                return Ok(());
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the command"),
        }
        let ready: Vec<i32> = polled
            .iter()
            .filter(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .map(|fd| fd.as_fd().as_raw_fd())
            .collect();
        let is_ready =
            |fd: Option<BorrowedFd<'_>>| fd.is_some_and(|fd| ready.contains(&fd.as_raw_fd()));

        if is_ready(Some(signals.as_fd())) {
            while let Ok(Some(_)) = signals.read_signal() {}
            self.reap();
        }
        if is_ready(self.stdin.as_ref().and_then(Sink::wants))
            && let Some(stdin) = &mut self.stdin
        {
            log_failure(stdin.drain(self.link));
        }
        for (_, source) in &mut self.outputs {
            if is_ready(source.wants(self.link)) {
                log_failure(source.pump(self.link));
            }
        }
        if is_ready(Some(self.link.as_fd())) {
            self.host_is_there = self.link.fill().unwrap_or(false);
            self.handle_frames()?;
        }
        if self.link.flush().is_err() {
            self.host_is_there = false;
        }
        Ok(())
    }

    /// Returns whether the command has ended, all its output is sent, and a process that it left in a service sandbox holds a stream
    /// open.
    fn is_left_open(&self) -> bool {
        let mut open = self.outputs.iter().filter(|(_, source)| source.is_open());
        std::process::id() != 1
            && self.exit.is_some()
            && self.link.is_flushed()
            && open.clone().next().is_some()
            && open.all(|(_, source)| source.wants(self.link).is_some())
    }

    /// Kills a command without a client, and its process group.
    fn end_command(&mut self) {
        if std::process::id() == 1 {
            return;
        }
        let group = Pid::from_raw(-self.pid.as_raw());
        self.stdin = None;
        self.outputs.clear();
        self.terminal = None;
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGCONT] {
            let _ = kill(group, signal);
        }
        for _ in 0..GRACE / 20 {
            self.reap();
            if self.exit.is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = kill(group, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }

    fn handle_frames(&mut self) -> Result<()> {
        while let Some(frame) = self.link.next_frame().context("reading the channel")? {
            self.handle_frame(frame);
        }
        Ok(())
    }

    /// Reaps all processes that have ended: orphans of the sandbox are children of PID 1.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let exit = match status {
                WaitStatus::Exited(pid, code) if pid == self.pid => Exit::Status {
                    code: u8::try_from(code).unwrap_or(u8::MAX),
                },
                WaitStatus::Signaled(pid, signal, _) if pid == self.pid => Exit::Signal {
                    number: signal as u8,
                },
                WaitStatus::StillAlive => return,
                WaitStatus::Exited(..)
                | WaitStatus::Signaled(..)
                | WaitStatus::Stopped(..)
                | WaitStatus::Continued(_)
                | WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_) => continue,
            };
            if self.exit.is_none() {
                self.exit = Some(exit);
                // Other processes may hold a pipe of the command open. From PID 1 the signal reaches all of them (kill(2)).
                if std::process::id() == 1 {
                    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
                }
            }
        }
    }

    fn handle_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Data(StreamId::Stdin, bytes) => {
                if let Some(stdin) = &mut self.stdin
                    && let Err(error) = stdin.accept(&bytes)
                {
                    log::warn!("standard input: {error}");
                }
            }
            Frame::End(StreamId::Stdin) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.end();
                }
            }
            Frame::End(channel) => {
                if let Some(source) = self.output(channel) {
                    source.close();
                }
            }
            Frame::Room(channel, count) => {
                if let Some(source) = self.output(channel) {
                    source.more_room(count);
                }
            }
            Frame::Attach(number) => {
                self.host_is_there = false;
                self.successor = Some(number);
            }
            Frame::Signal(signal) => self.signal(signal),
            Frame::Resize(rows, columns) => {
                if let Some(terminal) = &self.terminal {
                    log_failure(set_window_size(terminal.as_fd(), rows, columns));
                }
            }
            // Never sent by the host.
            Frame::Config(_)
            | Frame::Milestone(_)
            | Frame::Log(_)
            | Frame::Data(..)
            | Frame::Hello(_)
            | Frame::Tunnel(..)
            | Frame::Exit(_) => {}
        }
    }

    fn output(&mut self, channel: StreamId) -> Option<&mut Source> {
        let mut outputs = self.outputs.iter_mut();
        outputs
            .find(|(of, _)| *of == channel)
            .map(|(_, source)| source)
    }

    fn signal(&self, signal: SignalFrame) {
        // Once the command is reaped, its pid may belong to another process.
        if self.exit.is_some() {
            return;
        }
        let Ok(number) = Signal::try_from(i32::from(signal.number)) else {
            return;
        };
        let whom = if signal.group {
            Pid::from_raw(-self.pid.as_raw())
        } else {
            self.pid
        };
        let _ = kill(whom, number);
    }
}

/// Logs the failure of a stream. The stream is closed, and the other side knows.
fn log_failure<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        log::warn!("{error}");
    }
}
