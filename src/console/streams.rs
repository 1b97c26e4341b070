//! The caller's standard streams: some are inherited by the command, the others are carried over the channel.

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use guest_init::channel::link::{AtEnd, PAGE, Sink, Source};
use guest_init::channel::wire::StreamId;
use guest_init::config::{self as guest, WindowSize};
use guest_init::stdio::streams::{Direction, hand_down};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{dup2_stdin, dup2_stdout};

use crate::error::{Error, Result};

/// The caller's standard streams, each inherited by the command or carried over the channel.
#[derive(Debug)]
pub struct Stdio {
    streams: [Stream; 3],
    terminal: bool,
}

#[derive(Debug)]
struct Stream {
    file: OwnedFd,
    shared: bool,
}

const CHANNELS: [StreamId; 3] = [StreamId::Stdin, StreamId::Stdout, StreamId::Stderr];

impl Stdio {
    /// Takes the streams of this process. With `terminal` the command gets a terminal of the sandbox. A container can inherit
    /// files (`inherits`), a virtual machine cannot.
    pub fn of_process(terminal: bool, inherits: bool) -> Result<Self> {
        let stream = |fd: BorrowedFd<'_>, direction| -> Result<Stream> {
            let inherits = inherits && !terminal;
            let shared = inherits.then(|| hand_down(fd, direction)).flatten();
            Ok(match (shared, fd.try_clone_to_owned()) {
                (Some(file), _) => Stream { file, shared: true },
                (None, Ok(file)) => Stream {
                    file,
                    shared: false,
                },
                // A stream that the caller has closed is empty.
                (None, Err(_)) => Stream {
                    file: null()?,
                    shared: false,
                },
            })
        };
        Ok(Self {
            streams: [
                stream(stdin().as_fd(), Direction::Input)?,
                stream(stdout().as_fd(), Direction::Output)?,
                stream(stderr().as_fd(), Direction::Output)?,
            ],
            terminal,
        })
    }

    /// Returns whether the command gets a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Returns the streams as the guest's configuration describes them.
    #[must_use]
    pub fn for_guest(&self) -> guest::Stdio {
        if self.terminal {
            return guest::Stdio::Terminal(terminal_size());
        }
        guest::Stdio::Streams(
            [0, 1, 2].map(|index: usize| match self.streams[index].shared {
                true => guest::Stream::Inherited,
                false => guest::Stream::Channel,
            }),
        )
    }

    /// Returns the inherited streams, in the order of their descriptors.
    pub fn shared(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let shared = self.streams.iter().filter(|stream| stream.shared);
        shared.map(|stream| stream.file.as_fd())
    }

    /// Closes this process's own standard input and output if the command has inherited them. Standard error stays, for
    /// messages.
    pub fn hand_over(&self) -> Result<()> {
        let failed = |errno| Error::step("handing over the streams")(errno);
        if self.streams[0].shared {
            dup2_stdin(null()?).map_err(failed)?;
        }
        if self.streams[1].shared {
            dup2_stdout(null()?).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns the ends of the carried streams.
    pub(super) fn into_ends(self) -> (Option<Source>, Vec<(StreamId, Sink)>) {
        let mut source = None;
        let mut sinks = Vec::new();
        for (channel, stream) in CHANNELS.into_iter().zip(self.streams) {
            // All output of a terminal comes as standard output.
            let is_silent = self.terminal && channel == StreamId::Stderr;
            if stream.shared || is_silent {
                continue;
            }
            match channel {
                StreamId::Stdin => source = Some(Source::new(channel, stream.file)),
                StreamId::Stdout | StreamId::Stderr => {
                    let at_once = if is_regular(&stream.file) {
                        usize::MAX
                    } else {
                        PAGE
                    };
                    let sink = Sink::new(channel, stream.file, at_once, AtEnd::Close);
                    sinks.push((channel, sink));
                }
            }
        }
        (source, sinks)
    }
}

fn null() -> Result<OwnedFd> {
    let path = std::path::Path::new("/dev/null");
    let mut options = std::fs::File::options();
    let file = options.read(true).write(true).open(path);
    Ok(file.map_err(Error::io("opening", path))?.into())
}

fn is_regular(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|status| {
        SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
    })
}

/// Returns the size of the caller's window, or 24 rows of 80 columns.
#[must_use]
pub fn terminal_size() -> WindowSize {
    let sizes = [stdin().as_fd(), stdout().as_fd(), stderr().as_fd()].map(size);
    let found = sizes
        .into_iter()
        .flatten()
        .find(|size| size.rows > 0 && size.columns > 0);
    found.unwrap_or(WindowSize {
        rows: 24,
        columns: 80,
    })
}

fn size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    if !terminal.is_terminal() {
        return None;
    }
    let (rows, columns) = guest_init::stdio::terminal::window_size(terminal).ok()?;
    Some(WindowSize { rows, columns })
}
