//! Protocol between host and guest.
//!
//! The channel is one byte stream: a socket in a container, a virtio-serial port in a virtual machine. A frame is its kind (1 byte),
//! the length of the payload (4 bytes, little-endian) and the payload. The host sends the
//! [config](crate::config::GuestConfig) first.
//!
//! A side sends bytes of a stream only while the other side has room for them: [`WINDOW`] at the start, and more with each
//! [`Frame::Room`]. So every frame can be read at once, and a stream that nobody reads does not hold up another stream, a signal or
//! the exit status.

mod tunnel_frame;

use serde::{Deserialize, Serialize};

pub use tunnel_frame::{Kind, TunnelFrame};

/// Bytes of one stream that may be sent before the other side reports room.
pub const WINDOW: u32 = 256 << 10;

/// Largest payload of a frame, in bytes. A config with very many arguments and mounts fits.
pub const LARGEST: usize = 16 << 20;

/// Most bytes of a stream in one frame.
pub const CHUNK: usize = 32 << 10;

/// Bytes of a frame before its payload.
pub const HEADER: usize = 5;

/// Name of the virtio-serial port of the channel.
pub const PORT: &str = "org.virt-sandbox.channel.0";

/// Name of the [`Milestone`] after which the command runs.
pub const STARTED: &str = "started";

/// File descriptor of the channel in a container: the first that libvirt passes on. Inherited streams follow in the order of their
/// numbers.
pub const CHANNEL_FD: i32 = 3;

/// Message on the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the guest, first: a [`GuestConfig`](crate::config::GuestConfig) as JSON.
    Config(Vec<u8>),
    /// To the host: a moment of the boot.
    Milestone(Milestone),
    /// To the host: a line of the guest's log.
    Log(Vec<u8>),
    /// Data of a stream.
    Data(StreamId, Vec<u8>),
    /// End of a stream: the sender has no more data, or the receiver wants none.
    End(StreamId),
    /// Number of bytes of a stream that the receiver can take in addition.
    Room(StreamId, u32),
    /// To the guest: a signal for the command.
    Signal(SignalFrame),
    /// To the guest: a new size of the terminal, in rows and columns.
    Resize(u16, u16),
    /// To the host, last: the exit status.
    Exit(Exit),
    /// To the agent, first: a new client, with a random number. The previous client is gone.
    Attach(u64),
    /// To the host: the answer to [`Frame::Attach`].
    Hello(Hello),
    /// Frame of a connection of a tunnel, with the number of the connection.
    Tunnel(u32, TunnelFrame),
}

/// The answer to [`Frame::Attach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`](crate::channel::agent_request::VERSION) of the guest.
    pub version: u32,
    /// Number of the [`Frame::Attach`].
    pub number: u64,
}

impl Hello {
    /// First message of an agent on a port. No client attaches with this number (a random UUID has other bits), so a client that
    /// reads it instead of an answer has asked an agent that is gone, for example because the machine has rebooted.
    pub const BEGIN: Self = Self {
        version: 0,
        number: u64::MAX,
    };
}

/// Marks a [`Hello`] among data for a previous client.
const MAGIC: [u8; 16] = *b"virt-sandbox way";

/// Standard stream of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamId {
    /// Standard input.
    Stdin,
    /// Standard output, or all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A moment of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Milestone {
    /// Name of the moment: `booted`, `root`, `network`, `started`.
    pub name: String,
    /// Milliseconds since the kernel of the guest started.
    pub millis: u64,
}

impl Milestone {
    /// Returns a milestone at the current time.
    #[must_use]
    pub fn now(name: &str) -> Self {
        // Seconds with two decimal places (proc_uptime(5)).
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split(' ').next().unwrap_or("").replace('.', "");
        Self {
            name: name.to_owned(),
            millis: seconds.parse::<u64>().unwrap_or(0) * 10,
        }
    }
}

/// A signal to pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalFrame {
    /// Number (`signal(7)`), which is the same in host and guest: they have the same architecture.
    pub number: u8,
    /// Whether the whole process group gets the signal, as for a key at a terminal.
    pub group: bool,
}

/// Exit status of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "type")]
pub enum Exit {
    /// The command has exited.
    Status {
        /// 0 to 255.
        code: u8,
    },
    /// A signal has killed the command.
    Signal {
        /// Number of the signal.
        number: u8,
    },
    /// The program does not exist or cannot be executed.
    NotRun {
        /// Whether the program does not exist.
        missing: bool,
        /// Reason, on one line.
        reason: String,
    },
    /// The guest could not carry out a request.
    Failed {
        /// Reason, on one line.
        reason: String,
    },
}

/// Error in received bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Unknown kind of frame.
    #[error("a message of unknown kind {0}")]
    Kind(u8),
    /// Payload longer than [`LARGEST`].
    #[error("a message of {0} bytes")]
    Length(usize),
    /// More bytes of a stream than the reported room.
    #[error("{0} bytes of a stream at once, for which there is no room")]
    Room(usize),
    /// Payload that does not fit its kind.
    #[error("a message of kind {0} that makes no sense")]
    Payload(u8),
    /// [`Hello::BEGIN`] instead of an answer.
    #[error("the virtual machine has rebooted meanwhile")]
    Begun,
}

const CONFIG: u8 = 1;
const MILESTONE: u8 = 2;
const LOG: u8 = 3;
const DATA: u8 = 4;
const END: u8 = 5;
const ROOM: u8 = 6;
const SIGNAL: u8 = 7;
const RESIZE: u8 = 8;
const EXIT: u8 = 9;
const ATTACH: u8 = 10;
const HELLO: u8 = 11;
const TUNNEL: u8 = 12;

impl StreamId {
    const ALL: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];

    fn number(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl Exit {
    /// Returns the exit status as a shell has it: 128+N for signal N, 127 and 126 for a program that does not exist or cannot be
    /// executed, and 125 for a failure that is not the command's (`podman-run(1)`, `env(1)`).
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Status { code } => *code,
            Self::Signal { number } => 128_u8.saturating_add(*number),
            Self::NotRun { missing: true, .. } => 127,
            Self::NotRun { missing: false, .. } => 126,
            Self::Failed { .. } => 125,
        }
    }
}

impl Frame {
    /// Appends the bytes of the frame to `buffer`.
    pub fn write(&self, buffer: &mut Vec<u8>) {
        let begin = buffer.len();
        buffer.extend([self.kind(), 0, 0, 0, 0]);
        match self {
            Self::Config(text) | Self::Log(text) => buffer.extend_from_slice(text),
            Self::Data(channel, bytes) => {
                buffer.push(channel.number());
                buffer.extend_from_slice(bytes);
            }
            Self::End(channel) => buffer.push(channel.number()),
            Self::Room(channel, count) => {
                buffer.push(channel.number());
                buffer.extend(count.to_le_bytes());
            }
            Self::Signal(signal) => buffer.extend([signal.number, u8::from(signal.group)]),
            Self::Resize(rows, columns) => {
                buffer.extend(rows.to_le_bytes());
                buffer.extend(columns.to_le_bytes());
            }
            Self::Milestone(milestone) => json(milestone, buffer),
            Self::Exit(exit) => json(exit, buffer),
            Self::Attach(number) => buffer.extend(number.to_le_bytes()),
            Self::Hello(hello) => {
                buffer.extend(MAGIC);
                buffer.extend(hello.version.to_le_bytes());
                buffer.extend(hello.number.to_le_bytes());
            }
            Self::Tunnel(id, frame) => frame.write(*id, buffer),
        }
        let length = u32::try_from(buffer.len() - begin - HEADER).unwrap_or(u32::MAX);
        buffer[begin + 1..begin + HEADER].copy_from_slice(&length.to_le_bytes());
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Config(_) => CONFIG,
            Self::Milestone(_) => MILESTONE,
            Self::Log(_) => LOG,
            Self::Data(..) => DATA,
            Self::End(_) => END,
            Self::Room(..) => ROOM,
            Self::Signal(_) => SIGNAL,
            Self::Resize(..) => RESIZE,
            Self::Exit(_) => EXIT,
            Self::Attach(_) => ATTACH,
            Self::Hello(_) => HELLO,
            Self::Tunnel(..) => TUNNEL,
        }
    }

    /// Takes the first frame out of `buffer`; `None` if it is not complete.
    ///
    /// # Errors
    /// If the bytes are no frame. The bytes that follow cannot be read then.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, WireError> {
        let Some(header) = buffer.get(..HEADER) else {
            return Ok(None);
        };
        let kind = header[0];
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > LARGEST {
            return Err(WireError::Length(length));
        }
        if buffer.len() < HEADER + length {
            return Ok(None);
        }
        let rest = buffer.split_off(HEADER + length);
        let payload = std::mem::replace(buffer, rest).split_off(HEADER);
        Self::read(kind, payload).map(Some).ok_or(match kind {
            CONFIG..=TUNNEL => WireError::Payload(kind),
            _ => WireError::Kind(kind),
        })
    }

    /// Takes the [`Hello`] with `number` out of `buffer` and discards everything before it; `None` if it has not arrived.
    pub fn take_hello(buffer: &mut Vec<u8>, number: u64) -> Option<Hello> {
        let mut wanted = vec![];
        Self::Hello(Hello { version: 0, number }).write(&mut wanted);
        let (head, tail) = (HEADER + MAGIC.len(), number.to_le_bytes());
        let at = buffer
            .windows(wanted.len())
            .position(|found| found.starts_with(&wanted[..head]) && found.ends_with(&tail));
        let Some(at) = at else {
            // The buffer may end with the beginning of it.
            buffer.drain(..buffer.len().saturating_sub(wanted.len() - 1));
            return None;
        };
        buffer.drain(..at);
        match Self::take(buffer) {
            Ok(Some(Self::Hello(hello))) => Some(hello),
            Ok(_) | Err(_) => None,
        }
    }

    fn read(kind: u8, payload: Vec<u8>) -> Option<Self> {
        let channel = || StreamId::from_number(*payload.first()?);
        Some(match (kind, payload.as_slice()) {
            (CONFIG, _) => Self::Config(payload),
            (LOG, _) => Self::Log(payload),
            (MILESTONE, text) => Self::Milestone(serde_json::from_slice(text).ok()?),
            (EXIT, text) => Self::Exit(serde_json::from_slice(text).ok()?),
            (ATTACH, number) => Self::Attach(u64::from_le_bytes(number.try_into().ok()?)),
            (HELLO, text) => {
                let rest = text.strip_prefix(&MAGIC)?;
                Self::Hello(Hello {
                    version: u32::from_le_bytes(rest.get(..4)?.try_into().ok()?),
                    number: u64::from_le_bytes(rest.get(4..)?.try_into().ok()?),
                })
            }
            (TUNNEL, text) => TunnelFrame::read(text)?,
            (DATA, [_, bytes @ ..]) => Self::Data(channel()?, bytes.to_vec()),
            (END, [_]) => Self::End(channel()?),
            (ROOM, &[_, a, b, c, d]) => Self::Room(channel()?, u32::from_le_bytes([a, b, c, d])),
            (SIGNAL, &[number, group]) => Self::Signal(SignalFrame {
                number,
                group: group != 0,
            }),
            (RESIZE, &[a, b, c, d]) => {
                Self::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
            }
            _ => return None,
        })
    }
}

/// Writes a value as JSON. The types in frames always serialize.
fn json(value: &impl Serialize, buffer: &mut Vec<u8>) {
    buffer.extend(serde_json::to_vec(value).unwrap_or_default());
}

#[cfg(test)]
mod tests;
