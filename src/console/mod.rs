//! The caller's streams, terminal and signals at one end of the channel, the command of a sandbox at the other.

mod signals;
mod streams;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use guest_init::channel::link::{Link, Sink, Source};
use guest_init::channel::wire::{Exit, Frame, Milestone, SignalFrame, StreamId, WireError};
use guest_init::stdio::terminal::{RawMode, is_ours};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};

use self::signals::ASKING;
pub use self::signals::{Received, Signals};
pub use self::streams::{Stdio, terminal_size};
use crate::error::{Error, Result};

/// How a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The guest said how.
    Exit(Exit),
    /// The channel was closed without a word.
    Lost,
    /// The escape character was typed.
    Escaped,
    /// A signal came before the command had started.
    Interrupted(Signal),
    /// The guest did not report in time.
    Silent,
    /// The command took longer than it may.
    TimedOut,
}

/// How long word that the command runs may be on its way.
const WORD: Duration = Duration::from_millis(500);

/// Most milestones that are kept: there are a few, but the guest may say what it likes.
const MILESTONES: usize = 64;

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From now until the guest says that the command runs.
    pub start: Duration,
    /// From then until it ends; for ever if absent.
    pub run: Option<Duration>,
}

/// A conversation that is over.
#[derive(Debug)]
pub struct Conversation {
    /// How it ended.
    pub ending: Ending,
    /// What the guest has reached, with the time it was heard of here.
    pub milestones: Vec<(Milestone, Instant)>,
    /// The channel. The guest ends when it is dropped.
    pub link: Link,
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Console<'a> {
    link: Link,
    signals: &'a Signals,
    stdin: Option<Source>,
    sinks: Vec<(StreamId, Sink)>,
    /// With a terminal of the sandbox.
    terminal: Option<Terminal>,
    patience: Patience,
    since: Instant,
    started: bool,
    /// A signal that asks for the end, before anything was heard of the command.
    interrupted: Option<(Instant, Signal)>,
    /// What the guest has reached, with the time it was heard of here.
    milestones: Vec<(Milestone, Instant)>,
    ending: Option<Ending>,
    /// Nobody takes the output that is left, and nobody wants to wait any more.
    gives_up: bool,
}

/// Whether all that was said before it is to be passed on.
fn has_output(ending: &Ending) -> bool {
    match ending {
        Ending::Exit(_) | Ending::Lost => true,
        Ending::Escaped | Ending::Interrupted(_) | Ending::Silent | Ending::TimedOut => false,
    }
}

/// What there is only with a terminal.
#[derive(Debug)]
struct Terminal {
    /// The caller's, if standard input is one.
    raw: Option<RawMode>,
    /// Ends the conversation.
    escape: Option<u8>,
}

impl<'a> Console<'a> {
    /// Joins `stdio` to the command at the other end of `link`. `escape` is the byte that ends it when typed at a terminal.
    ///
    /// # Errors
    /// Where the terminal cannot be set to raw mode.
    pub fn new(
        link: Link,
        stdio: Stdio,
        escape: Option<u8>,
        signals: &'a Signals,
        patience: Patience,
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
            patience,
            since: Instant::now(),
            started: false,
            interrupted: None,
            milestones: Vec::new(),
            ending: None,
            gives_up: false,
        })
    }

    /// Talks until it is over. The terminal is as before then.
    ///
    /// # Errors
    /// Where the guest says what nobody understands.
    pub fn converse(mut self) -> Result<Conversation> {
        loop {
            let is_drained = self.sinks.iter().all(|(_, sink)| sink.is_drained());
            match &self.ending {
                Some(ending) if is_drained || self.gives_up || !has_output(ending) => {
                    return Ok(Conversation {
                        ending: ending.clone(),
                        milestones: self.milestones,
                        link: self.link,
                    });
                }
                Some(_) | None => self.turn()?,
            }
        }
    }

    /// Until when to wait, and what it is if nothing comes.
    fn deadline(&self) -> Option<(Instant, Ending)> {
        if self.started {
            let run = self.patience.run?;
            Some((self.since + run, Ending::TimedOut))
        } else if let Some((at, signal)) = self.interrupted {
            Some((at + WORD, Ending::Interrupted(signal)))
        } else {
            Some((self.since + self.patience.start, Ending::Silent))
        }
    }

    /// Waits until something can be done, and does it.
    fn turn(&mut self) -> Result<()> {
        let is_over = self.ending.is_some();
        // A job in the background that reads the terminal is stopped, and takes what was typed for somebody else.
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
                self.signal(received);
            }
        }
        for (_, sink) in &mut self.sinks {
            if is_ready(sink.wants()) {
                warn(sink.drain(&mut self.link));
            }
        }
        if self.ending.is_some() {
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
            let wrong = || Error::step("reading what the guest says");
            while let Some(frame) = self.link.next_frame().map_err(wrong())? {
                self.hear(frame).map_err(wrong())?;
            }
            if !is_open {
                self.ending.get_or_insert(Ending::Lost);
            }
        }
        if self.link.flush().is_err() {
            // What the guest said before it went is still to be read.
            let _ = self.link.fill();
        }
        if let Some((deadline, ending)) = self.deadline()
            && Instant::now() >= deadline
        {
            self.ending.get_or_insert(ending);
        }
        Ok(())
    }

    fn timeout(&self, reads: bool) -> PollTimeout {
        let left = self
            .deadline()
            .filter(|_| self.ending.is_none())
            .map(|(deadline, _)| deadline.saturating_duration_since(Instant::now()));
        // Nobody says when the terminal is ours again.
        let patience = (!reads && self.stdin.is_some()).then(|| Duration::from_millis(200));
        let wait = left.into_iter().chain(patience).min();
        wait.map_or(PollTimeout::NONE, |wait| {
            // Rounded up, or the last millisecond is spent looking.
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
            Ok(false) => self.ending = Some(Ending::Escaped),
            Err(error) => log::warn!("reading standard input: {error}"),
        }
    }

    fn hear(&mut self, frame: Frame) -> std::result::Result<(), WireError> {
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
                if self.milestones.len() < MILESTONES {
                    self.milestones.push((milestone, Instant::now()));
                }
            }
            Frame::Exit(exit) => {
                self.ending.get_or_insert(Ending::Exit(exit));
            }
            // Nothing of the guest's.
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

    fn signal(&mut self, received: Received) {
        let Received { signal, typed } = received;
        let asks_for_the_end = ASKING.contains(&signal);
        if self.ending.is_some() {
            // The command has ended: it is we who wait for somebody to read.
            self.gives_up |= asks_for_the_end;
        } else if signal == Signal::SIGWINCH {
            self.resize();
        } else if signal == Signal::SIGTSTP {
            self.suspend();
        } else if signal == Signal::SIGCONT {
            self.resume();
        } else {
            // The command may run already, with word of that on its way.
            self.pass_on(signal, typed);
            if asks_for_the_end && !self.started {
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

    /// Stops the command, then us. The command has a session of its own, in which SIGTSTP has no effect.
    fn suspend(&mut self) {
        if let Some(raw) = self.raw() {
            raw.leave();
        }
        self.pass_on(Signal::SIGSTOP, true);
        // A socket takes so little at once.
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
