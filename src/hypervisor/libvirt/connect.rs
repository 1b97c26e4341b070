//! Opening of a connection to libvirt, and what is wrong where that fails.

use std::path::Path;
use std::thread;
use std::time::Duration;

use virt::connect::Connect;
use virt::error::{Error as VirtError, ErrorNumber};

use super::{is, text};
use crate::error::{Error, Result};
use crate::host::daemons;
use crate::hypervisor::parse::is_hang_up;

/// Number of times, and pause between them, that a connection is tried again after the daemon has hung up.
const HANG_UPS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Connects to a daemon.
pub(super) fn connect(uri: &str) -> Result<Connect> {
    open(uri).map_err(|error| no_connection(uri, &error))
}

/// Opens a connection. A daemon that ends when idle (`--timeout` in its units) may accept a connection just before it exits; its
/// socket then starts it anew.
fn open(uri: &str) -> Result<Connect, VirtError> {
    for _ in 0..HANG_UPS {
        match Connect::open(Some(uri)) {
            Err(error) if is_hang_up(error.message()) => thread::sleep(PAUSE),
            result => return result,
        }
    }
    Connect::open(Some(uri))
}

/// Returns the error of a connection that cannot be opened.
fn no_connection(uri: &str, error: &VirtError) -> Error {
    let (doing, reason) = (format!("connecting to libvirt at '{uri}'"), text(error));
    let scheme = uri.split([':', '+']).next().unwrap_or_default();
    let (root, daemon) = (Path::new("/"), daemons::modular(scheme));
    if is(error, ErrorNumber::NoConnect) || daemons::lack_driver(root, daemon) {
        return Error::unsupported(format!(
            "{doing}: {reason}; install libvirt's driver for '{scheme}' (a package of its own on many distributions), or choose \
             another connection with -c"
        ));
    }
    let remedy = daemons::remedy(root, daemon);
    Error::Libvirt {
        doing,
        reason: format!("{reason}; is its daemon running? If not, {remedy}"),
    }
}
