//! Session between the caller's streams, terminal and signals, and the command of a sandbox at the other end of the channel.

mod signals;
mod streams;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use guest_init::channel::link::{Link, Sink, Source};
use guest_init::channel::wire::{Exit, Frame, Milestone, SignalFrame, StreamId, WireError};
use guest_init::stdio::signals::TERMINATING;
use guest_init::stdio::terminal::{RawMode, is_ours};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};

pub use self::signals::{Received, Signals};
pub use self::streams::{Stdio, terminal_size};
use crate::error::{Error, Result};

/// Reason for the end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The guest reported it.
    Exit(Exit),
    /// The channel was closed without a report.
    Lost,
    /// The escape character was typed.
    Escaped,
    /// A signal came before the command had started.
    Interrupted(Signal),
    /// The guest did not report in time.
    Silent,
    /// The command exceeded its time limit.
    TimedOut,
}

/// Time for the report that the command has started to arrive, after a signal that asks for the end.
const STARTED_GRACE: Duration = Duration::from_millis(500);

/// Number of milestones that are kept. A boot has a few, but a guest can report any number.
const MOST_MILESTONES: usize = 64;

/// Time limits of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Limit until the guest reports that the command runs.
    pub start: Duration,
    /// Limit from then until the command ends; unlimited if absent.
    pub run: Option<Duration>,
}

/// Session that is over.
#[derive(Debug)]
pub struct Session {
    pub end: SessionEnd,
    /// Milestones that the guest reported, with the time of arrival.
    pub milestones: Vec<(Milestone, Instant)>,
    /// The channel. The guest ends when it is dropped.
    pub link: Link,
}

/// The caller's end of a session.
#[derive(Debug)]
pub struct Console<'a> {
    link: Link,
    signals: &'a Signals,
    stdin: Option<Source>,
    sinks: Vec<(StreamId, Sink)>,
    /// Present if the command has a terminal of the sandbox.
    terminal: Option<Terminal>,
    timeouts: Timeouts,
    since: Instant,
    started: bool,
    /// Signal that asks for the end, and came before the command was known to run.
    interrupted: Option<(Instant, Signal)>,
    /// Milestones that the guest reported, with the time of arrival.
    milestones: Vec<(Milestone, Instant)>,
    end: Option<SessionEnd>,
    /// A signal came after the end, while output was left that nobody reads.
    discards_output: bool,
}

/// Returns whether output that came before this end is still to be written.
fn has_output(end: &SessionEnd) -> bool {
    match end {
        SessionEnd::Exit(_) | SessionEnd::Lost => true,
        SessionEnd::Escaped
        | SessionEnd::Interrupted(_)
        | SessionEnd::Silent
        | SessionEnd::TimedOut => false,
    }
}

/// State of a session with a terminal.
#[derive(Debug)]
struct Terminal {
    /// Raw mode of the caller's terminal, if standard input is one.
    raw: Option<RawMode>,
    /// Byte that ends the session when typed.
    escape: Option<u8>,
}

impl<'a> Console<'a> {
    /// Connects `stdio` to the command at the other end of `link`, and sets a terminal to raw mode. `escape` is the byte that ends the
    /// session when typed.
    pub fn new(
        link: Link,
        stdio: Stdio,
        escape: Option<u8>,
        signals: &'a Signals,
        timeouts: Timeouts,
    ) -> Result<Self> {
        let terminal = if stdio.is_terminal() {
            let raw = RawMode::enter()
                .map_err(|errno| Error::step("setting the terminal to raw mode")(errno))?;
            Some(Terminal { raw, escape })
        } else {
            None
        };
        let (stdin, sinks) = stdio.into_ends();
        Ok(Self {
            link,
            signals,
            stdin,
            sinks,
            terminal,
            timeouts,
            since: Instant::now(),
            started: false,
            interrupted: None,
            milestones: Vec::new(),
            end: None,
            discards_output: false,
        })
    }

    /// Runs the session to its end, and restores the terminal. A frame that cannot be read is an error.
    pub fn run(mut self) -> Result<Session> {
        loop {
            let is_drained = self.sinks.iter().all(|(_, sink)| sink.is_drained());
            match &self.end {
                Some(end) if is_drained || self.discards_output || !has_output(end) => {
                    return Ok(Session {
                        end: end.clone(),
                        milestones: self.milestones,
                        link: self.link,
                    });
                }
                Some(_) | None => self.poll_once()?,
            }
        }
    }

    /// Returns the next deadline, and the end of the session if it passes.
    fn deadline(&self) -> Option<(Instant, SessionEnd)> {
        if self.started {
            let run = self.timeouts.run?;
            Some((self.since + run, SessionEnd::TimedOut))
        } else if let Some((at, signal)) = self.interrupted {
            Some((at + STARTED_GRACE, SessionEnd::Interrupted(signal)))
        } else {
            Some((self.since + self.timeouts.start, SessionEnd::Silent))
        }
    }

    /// Waits for events, and handles them.
    fn poll_once(&mut self) -> Result<()> {
        let is_over = self.end.is_some();
        // A background job that reads the terminal is stopped (SIGTTIN), or takes input that is meant for another.
        let reads = !is_over && is_ours(std::io::stdin().as_fd());
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !is_over {
            polled.push(PollFd::new(self.link.as_fd(), self.link.wants()));
        }
        let stdin = self.stdin.as_ref().filter(|_| reads);
        let stdin = stdin.and_then(|stdin| stdin.wants(&self.link));
        polled.extend(stdin.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let sinks = self.sinks.iter().filter_map(|(_, sink)| sink.wants());
        polled.extend(sinks.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
        match poll(&mut polled, self.timeout(reads)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::step("waiting for the sandbox")(errno)),
        }
        let ready: Vec<i32> = polled
            .iter()
            .filter(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .map(|fd| fd.as_fd().as_raw_fd())
            .collect();
        let is_ready =
            |fd: Option<BorrowedFd<'_>>| fd.is_some_and(|fd| ready.contains(&fd.as_raw_fd()));

        if is_ready(Some(self.signals.as_fd())) {
            for received in self.signals.take() {
                self.handle_signal(received);
            }
        }
        for (_, sink) in &mut self.sinks {
            if is_ready(sink.wants()) {
                warn(sink.drain(&mut self.link));
            }
        }
        if self.end.is_some() {
            return Ok(());
        }
        if is_ready(
            self.stdin
                .as_ref()
                .and_then(|stdin| stdin.wants(&self.link)),
        ) {
            self.read_stdin();
        }
        if is_ready(Some(self.link.as_fd())) {
            let is_open = self.link.fill().unwrap_or(false);
            let wrong = || Error::step("reading the guest's frames");
            while let Some(frame) = self.link.next_frame().map_err(wrong())? {
                self.handle_frame(frame).map_err(wrong())?;
            }
            if !is_open {
                self.end.get_or_insert(SessionEnd::Lost);
            }
        }
        if self.link.flush().is_err() {
            // Frames that the guest sent before it ended are still to be read.
            let _ = self.link.fill();
        }
        if let Some((deadline, end)) = self.deadline()
            && Instant::now() >= deadline
        {
            self.end.get_or_insert(end);
        }
        Ok(())
    }

    fn timeout(&self, reads: bool) -> PollTimeout {
        let left = self
            .deadline()
            .filter(|_| self.end.is_none())
            .map(|(deadline, _)| deadline.saturating_duration_since(Instant::now()));
        // No event tells when the terminal is ours again.
        let retry = (!reads && self.stdin.is_some()).then(|| Duration::from_millis(200));
        let wait = left.into_iter().chain(retry).min();
        wait.map_or(PollTimeout::NONE, |wait| {
            // Rounded up: the last fraction of a millisecond would be a busy loop.
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        })
    }

    fn read_stdin(&mut self) {
        let Some(stdin) = &mut self.stdin else {
            return;
        };
        let escape = self.terminal.as_ref().and_then(|terminal| terminal.escape);
        match stdin.pump_unless(&mut self.link, escape) {
            Ok(true) => {}
            Ok(false) => self.end = Some(SessionEnd::Escaped),
            Err(error) => log::warn!("reading standard input: {error}"),
        }
    }

    fn handle_frame(&mut self, frame: Frame) -> std::result::Result<(), WireError> {
        match frame {
            Frame::Data(channel, bytes) => {
                if let Some(sink) = self.sink(channel) {
                    sink.accept(&bytes)?;
                }
            }
            Frame::End(StreamId::Stdin) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.close();
                }
            }
            Frame::End(channel) => {
                if let Some(sink) = self.sink(channel) {
                    sink.end();
                }
            }
            Frame::Room(StreamId::Stdin, count) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.more_room(count);
                }
            }
            Frame::Log(line) => log::warn!("guest: {}", String::from_utf8_lossy(&line)),
            Frame::Milestone(milestone) => {
                if milestone.name == guest_init::channel::wire::STARTED {
                    self.started = true;
                    self.since = Instant::now();
                }
                if self.milestones.len() < MOST_MILESTONES {
                    self.milestones.push((milestone, Instant::now()));
                }
            }
            Frame::Exit(exit) => {
                self.end.get_or_insert(SessionEnd::Exit(exit));
            }
            // A guest does not send these.
            Frame::Config(_)
            | Frame::Room(..)
            | Frame::Signal(_)
            | Frame::Resize(..)
            | Frame::Attach(_)
            | Frame::Hello(_)
            | Frame::Tunnel(..) => {}
        }
        Ok(())
    }

    fn sink(&mut self, channel: StreamId) -> Option<&mut Sink> {
        let mut sinks = self.sinks.iter_mut();
        sinks.find(|(of, _)| *of == channel).map(|(_, sink)| sink)
    }

    fn handle_signal(&mut self, received: Received) {
        let Received { signal, typed } = received;
        let asks_to_end = TERMINATING.contains(&signal);
        if self.end.is_some() {
            // The command has ended, and its output waits for a reader.
            self.discards_output |= asks_to_end;
        } else if signal == Signal::SIGWINCH {
            self.resize();
        } else if signal == Signal::SIGTSTP {
            self.suspend();
        } else if signal == Signal::SIGCONT {
            self.resume();
        } else {
            // The command may run already, and the report be on its way.
            self.pass_on(signal, typed);
            if asks_to_end && !self.started {
                self.interrupted.get_or_insert((Instant::now(), signal));
            }
        }
    }

    fn resize(&mut self) {
        if self.terminal.is_some() {
            let size = terminal_size();
            self.link.send(&Frame::Resize(size.rows, size.columns));
        }
    }

    fn pass_on(&mut self, signal: Signal, group: bool) {
        self.link.send(&Frame::Signal(SignalFrame {
            number: signal as u8,
            group,
        }));
    }

    /// Stops the command, then this process. The command gets SIGSTOP: it has a session of its own, where SIGTSTP has no effect.
    fn suspend(&mut self) {
        if let Some(raw) = self.raw() {
            raw.leave();
        }
        self.pass_on(Signal::SIGSTOP, true);
        // A single frame fits into the socket's buffer.
        let _ = self.link.flush();
        let _ = raise(Signal::SIGSTOP);
        self.resume();
    }

    fn resume(&mut self) {
        if let Some(raw) = self.raw() {
            let _ = raw.enter_again();
        }
        self.resize();
        self.pass_on(Signal::SIGCONT, true);
    }

    fn raw(&self) -> Option<&RawMode> {
        self.terminal.as_ref()?.raw.as_ref()
    }
}

fn warn(result: std::io::Result<()>) {
    if let Err(error) = result {
        log::warn!("writing the command's output: {error}");
    }
}
