//! Telling the host which process is the first of the sandbox, once that is about to become the payload.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use log::warn;

use crate::sys::first_process::{Identity, ProcDir, RECORD};

/// The record of a container that boots, held open: it can be written when the staging root is gone.
#[derive(Debug)]
pub struct Handover {
    record: File,
    init: Identity,
}

impl Handover {
    /// Empties the record in the staging root, which an earlier boot may have filled, while `/proc` is that of this process.
    ///
    /// # Errors
    /// Where it cannot be written, or the kernel does not tell who we are.
    pub fn begin() -> Result<Self> {
        let path = format!("/{RECORD}");
        let record = File::create(&path).with_context(|| format!("writing '{path}'"))?;
        let init = ProcDir::open(std::process::id()).and_then(|own| own.identity())?;
        Ok(Self { record, init })
    }

    fn publish(mut self, first: Identity) -> Result<()> {
        let record = crate::sys::first_process::Record {
            init: self.init,
            first,
        };
        let text = serde_json::to_vec(&record).context("handing the sandbox over")?;
        self.record
            .write_all(&text)
            .context("handing the sandbox over to the host")
    }

    /// Publishes the record once the first process, which is another one, has said on `ready` that it has booted.
    pub fn publish_when(self, ready: OwnedFd, first: Identity) {
        // It ends without a word where it fails.
        if File::from(ready).read_exact(&mut [0]).is_ok()
            && let Err(error) = self.publish(first)
        {
            warn!("{error:#}");
        }
    }
}

/// Receiver of the report that the sandbox has booted.
#[derive(Debug)]
pub enum Told {
    /// Nobody: a machine has no process that the host could enter.
    Nobody,
    /// The host, of this process.
    Host(Handover),
    /// The process above, which waits for a byte.
    Above(OwnedFd),
}

impl Told {
    /// Says that nothing but the payload is left to start: all namespaces are the sandbox's, and what it may not do is given up.
    ///
    /// # Errors
    /// Where nobody hears it; the host could not reach the sandbox then.
    pub fn booted(self) -> Result<()> {
        match self {
            Self::Nobody => Ok(()),
            Self::Host(handover) => {
                let first = handover.init;
                handover.publish(first)
            }
            Self::Above(ready) => File::from(ready)
                .write_all(&[0])
                .context("telling that the sandbox has booted"),
        }
    }
}
