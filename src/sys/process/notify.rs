//! Notifications to the service manager: `sd_notify(3)`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use crate::error::{Error, Result};

/// Reports readiness and a status text. Without a service manager this does nothing.
pub fn ready(status: &str) -> Result<()> {
    send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")))
}

/// Reports that the service is stopping.
pub fn stopping() -> Result<()> {
    send("STOPPING=1")
}

fn send(state: &str) -> Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let path = Path::new(&socket);
    let send = || -> io::Result<()> {
        // `@` stands for the leading NUL of an abstract address.
        let address = match socket.to_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    send().map_err(Error::io("notifying", path))
}
