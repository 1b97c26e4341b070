//! Connections to libvirt: shared ones for commands about many sandboxes, and one that keeps a daemon running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::hypervisor::{Connector, Hypervisor};

/// Interval of checks, less than the two minutes after which an idle libvirt daemon ends (`--timeout` in its units).
const LOOK: Duration = Duration::from_secs(60);

/// Open connections, by URI. Close them before a long wait.
#[derive(Debug, Default)]
pub(super) struct Connections(BTreeMap<String, Arc<dyn Hypervisor>>);

impl Connections {
    /// Returns the connection of a URI.
    ///
    /// # Errors
    /// No daemon answers.
    pub(super) fn open(&mut self, connector: &Connector, uri: &str) -> Result<Arc<dyn Hypervisor>> {
        if let Some(open) = self.0.get(uri) {
            return Ok(Arc::clone(open));
        }
        let open = connector.open(uri)?;
        self.0.insert(uri.to_owned(), Arc::clone(&open));
        Ok(open)
    }
}

/// Connection that keeps a daemon running as long as this value exists; it is opened anew if the daemon restarts.
///
/// An idle libvirt daemon ends, and systemd starts it again only after the units that are ordered
/// after it have stopped: then no daemon would be there to stop a sandbox.
#[derive(Debug)]
pub(super) struct Presence(#[expect(dead_code, reason = "the thread ends with it")] Sender<()>);

impl Presence {
    /// Starts a thread, since a daemon that does not answer would block the caller.
    pub(super) fn new(connector: &Connector, uri: &str, name: &str) -> Self {
        let (end, ended) = channel();
        let (connector, uri, name) = (connector.clone(), uri.to_owned(), name.to_owned());
        thread::spawn(move || {
            let mut connection: Option<Arc<dyn Hypervisor>> = None;
            loop {
                // Only a request shows that the other side is gone.
                connection = connection.filter(|open| open.state(&name).is_ok());
                if connection.is_none() {
                    connection = connector
                        .open(&uri)
                        .inspect_err(|error| log::debug!("{error}"))
                        .ok();
                }
                if ended.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Self(end)
    }
}
