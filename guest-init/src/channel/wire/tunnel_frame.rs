//! What is said of a connection that is carried over the channel, beside others.

use super::Frame;

/// What goes over one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes in order, each direction with an end of its own.
    Stream,
    /// Messages, each whole or not at all. Those without a byte are not carried.
    Datagrams,
}

/// One message about a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelFrame {
    /// To the guest: connect to this port of yours.
    Open(Kind, u16),
    /// Bytes, or a datagram. Of a stream only as many as the other side has room for.
    Data(Vec<u8>),
    /// No more bytes come.
    End,
    /// Whoever received bytes of a stream can take so many more.
    Room(u32),
    /// It is over, and not all may have arrived: nobody listens there, or one side has failed.
    Reset,
}

const OPEN_STREAM: u8 = 0;
const OPEN_DATAGRAMS: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const ROOM: u8 = 4;
const RESET: u8 = 5;

impl TunnelFrame {
    /// Appends the payload of a frame about the connection `id`.
    pub(super) fn write(&self, id: u32, buffer: &mut Vec<u8>) {
        buffer.extend(id.to_le_bytes());
        match self {
            Self::Open(kind, port) => {
                buffer.push(match kind {
                    Kind::Stream => OPEN_STREAM,
                    Kind::Datagrams => OPEN_DATAGRAMS,
                });
                buffer.extend(port.to_le_bytes());
            }
            Self::Data(bytes) => {
                buffer.push(DATA);
                buffer.extend_from_slice(bytes);
            }
            Self::End => buffer.push(END),
            Self::Room(count) => {
                buffer.push(ROOM);
                buffer.extend(count.to_le_bytes());
            }
            Self::Reset => buffer.push(RESET),
        }
    }

    /// Reads such a payload.
    pub(super) fn read(payload: &[u8]) -> Option<Frame> {
        let (id, rest) = payload.split_first_chunk::<4>()?;
        let frame = match rest {
            &[OPEN_STREAM, a, b] => Self::Open(Kind::Stream, u16::from_le_bytes([a, b])),
            &[OPEN_DATAGRAMS, a, b] => Self::Open(Kind::Datagrams, u16::from_le_bytes([a, b])),
            [DATA, bytes @ ..] => Self::Data(bytes.to_vec()),
            [END] => Self::End,
            &[ROOM, a, b, c, d] => Self::Room(u32::from_le_bytes([a, b, c, d])),
            [RESET] => Self::Reset,
            _ => return None,
        };
        Some(Frame::Tunnel(u32::from_le_bytes(*id), frame))
    }
}
