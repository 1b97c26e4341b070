//! Telling the service manager how we are: `sd_notify(3)`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use crate::error::{Error, Result};

/// Says that we are ready, with a status for people. Nobody listening is no error.
///
/// # Errors
/// Where the manager cannot be reached.
pub fn ready(status: &str) -> Result<()> {
    send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")))
}

/// Says that we are on our way out.
///
/// # Errors
/// Where the manager cannot be reached.
pub fn stopping() -> Result<()> {
    send("STOPPING=1")
}

fn send(state: &str) -> Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let path = Path::new(&socket);
    let send = || -> io::Result<()> {
        // `@` stands for the zero byte of an abstract address.
        let address = match socket.to_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
        Ok(())
    };
    send().map_err(Error::io("notifying", path))
}
