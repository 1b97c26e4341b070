//! Addresses that a socket unit listens on: systemd.socket(5).

use std::net::IpAddr;
use std::path::PathBuf;

/// The kind of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListenKind {
    /// `ListenStream=`: TCP or a stream socket in the file system.
    Stream,
    /// `ListenDatagram=`: UDP or a datagram socket in the file system.
    Datagram,
    /// `ListenSequentialPacket=`.
    SequentialPacket,
    /// `ListenFIFO=`.
    Fifo,
    /// `ListenSpecial=`: a device or a file of /proc or /sys.
    Special,
    /// `ListenNetlink=`.
    Netlink,
    /// `ListenMessageQueue=`.
    MessageQueue,
    /// `ListenUSBFunction=`.
    UsbFunction,
}

impl ListenKind {
    /// Every key and its kind.
    pub const KEYS: [(&'static str, Self); 8] = [
        ("ListenStream", Self::Stream),
        ("ListenDatagram", Self::Datagram),
        ("ListenSequentialPacket", Self::SequentialPacket),
        ("ListenFIFO", Self::Fifo),
        ("ListenSpecial", Self::Special),
        ("ListenNetlink", Self::Netlink),
        ("ListenMessageQueue", Self::MessageQueue),
        ("ListenUSBFunction", Self::UsbFunction),
    ];
}

/// Address of a socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Path in the filesystem.
    Path(PathBuf),
    /// Name in the abstract namespace, without the `@`.
    Abstract(String),
    /// Port on one address of the machine or on all.
    Port {
        /// IP address, or `None` for all.
        ip: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// Any other address, as written.
    Other(String),
}

/// One `Listen…=`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// The kind of socket.
    pub kind: ListenKind,
    /// Address.
    pub address: Address,
}

impl Listen {
    /// Parses a value with its specifiers expanded.
    pub fn parse(kind: ListenKind, value: &str) -> Self {
        Self {
            kind,
            address: Address::parse(kind, value),
        }
    }
}

impl Address {
    fn parse(kind: ListenKind, value: &str) -> Self {
        let other = || Self::Other(value.to_owned());
        match kind {
            // The name of a message queue looks like a path but is not one.
            ListenKind::Netlink | ListenKind::MessageQueue => return other(),
            ListenKind::Stream
            | ListenKind::Datagram
            | ListenKind::SequentialPacket
            | ListenKind::Fifo
            | ListenKind::Special
            | ListenKind::UsbFunction => {}
        }
        if value.starts_with('/') {
            return Self::Path(value.into());
        }
        if let Some(name) = value.strip_prefix('@') {
            return Self::Abstract(name.to_owned());
        }
        if let Ok(port) = value.parse() {
            return Self::Port { ip: None, port };
        }
        let Some((host, port)) = value.rsplit_once(':') else {
            return other();
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        match (host.parse(), port.parse()) {
            (Ok(ip), Ok(port)) => Self::Port { ip: Some(ip), port },
            _ => other(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let port = |ip: Option<&str>, port| Address::Port {
            ip: ip.map(|ip| ip.parse().unwrap()),
            port,
        };
        let cases = [
            ("/run/x.sock", Address::Path("/run/x.sock".into())),
            ("@x", Address::Abstract("x".into())),
            ("631", port(None, 631)),
            ("127.0.0.1:25", port(Some("127.0.0.1"), 25)),
            ("[::]:143", port(Some("::"), 143)),
            ("vsock:2:1024", Address::Other("vsock:2:1024".into())),
            ("99999", Address::Other("99999".into())),
        ];
        for (value, address) in cases {
            assert_eq!(
                Listen::parse(ListenKind::Stream, value).address,
                address,
                "{value}"
            );
        }
        let queue = Listen::parse(ListenKind::MessageQueue, "/q");
        assert_eq!(queue.address, Address::Other("/q".into()));
    }
}
