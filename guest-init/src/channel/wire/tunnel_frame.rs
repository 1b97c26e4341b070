//! Frames of the connections of a tunnel.

use super::Frame;

/// Protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes in order. Each direction ends by itself.
    Stream,
    /// Messages, each delivered whole or lost. Empty messages are not carried.
    Datagrams,
}

/// Frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelFrame {
    /// To the guest: connect to this port.
    Open(Kind, u16),
    /// Bytes of a stream, within the reported room, or one datagram.
    Data(Vec<u8>),
    /// End of the sender's bytes.
    End,
    /// Number of bytes that the receiver can take in addition.
    Room(u32),
    /// The connection has failed, and data may be lost: nobody listens, or one side has failed.
    Reset,
}

const OPEN_STREAM: u8 = 0;
const OPEN_DATAGRAMS: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
const ROOM: u8 = 4;
const RESET: u8 = 5;

impl TunnelFrame {
    /// Appends the payload of a frame of the connection `id`.
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

    /// Parses the payload of a frame.
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
