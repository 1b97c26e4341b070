//! Connections to libvirt: for a command that looks at many sandboxes, of which most have the same one, and for one that stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::libvirt::Libvirt;

/// Less than the two minutes after which a daemon of libvirt's ends that nobody is connected to (`--timeout` in its units).
const LOOK: Duration = Duration::from_secs(60);

/// Connections that are open, by what they lead to. Not to be kept over a long wait.
#[derive(Debug, Default)]
pub(super) struct Connections(BTreeMap<String, Arc<Libvirt>>);

impl Connections {
    /// Returns the connection behind a URI.
    ///
    /// # Errors
    /// Where no daemon answers.
    pub(super) fn open(&mut self, uri: &str) -> Result<Arc<Libvirt>> {
        if let Some(open) = self.0.get(uri) {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(Libvirt::open(uri)?);
        self.0.insert(uri.to_owned(), Arc::clone(&open));
        Ok(open)
    }
}

/// A connection that is there for nothing but to be there, as long as this is; opened anew where the daemon was restarted.
///
/// A daemon of libvirt's ends where nobody is connected for a while, and systemd starts it again only when what is ordered
/// after it has stopped: it would not be there to stop a sandbox with.
#[derive(Debug)]
pub(super) struct Presence(#[expect(dead_code, reason = "the thread ends with it")] Sender<()>);

impl Presence {
    /// Who waits for a daemon that does not answer is a thread of its own.
    pub(super) fn new(uri: &str, name: &str) -> Self {
        let (end, ended) = channel();
        let (uri, name) = (uri.to_owned(), name.to_owned());
        thread::spawn(move || {
            let mut connection = None;
            loop {
                // Only who asks for something learns that the other side is gone.
                connection = connection.filter(|open: &Libvirt| open.state(&name).is_ok());
                if connection.is_none() {
                    connection = Libvirt::open(&uri)
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
