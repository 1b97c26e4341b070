//! Report to the host which process is the first of the sandbox, made when that is about to become the payload.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use log::warn;

use crate::sys::first_process::{Identity, ProcDir, RECORD, Record};

/// Record of a container that boots. It is held open, so it can be written when the staging root is gone.
#[derive(Debug)]
pub struct Handover {
    record: File,
    init: Identity,
}

impl Handover {
    /// Empties the record in the staging root, which an earlier boot may have filled. To be called while `/proc` shows this process.
    pub fn begin() -> Result<Self> {
        let path = format!("/{RECORD}");
        let record = File::create(&path).with_context(|| format!("writing '{path}'"))?;
        let init = ProcDir::open(std::process::id()).and_then(|own| own.identity())?;
        Ok(Self { record, init })
    }

    fn publish(mut self, first: Identity) -> Result<()> {
        let record = Record {
            init: self.init,
            first,
        };
        let text = serde_json::to_vec(&record).context("handing the sandbox over")?;
        self.record
            .write_all(&text)
            .context("handing the sandbox over to the host")
    }

    /// Publishes the record with another process as the first, once that has reported on `ready` that it has booted.
    pub fn publish_when(self, ready: OwnedFd, first: Identity) {
        // The process closes `ready` without writing if its boot fails.
        if File::from(ready).read_exact(&mut [0]).is_ok()
            && let Err(error) = self.publish(first)
        {
            warn!("{error:#}");
        }
    }
}

/// Receiver of the report that the sandbox has booted.
#[derive(Debug)]
pub enum Report {
    /// Nobody: the host cannot enter a process of a machine.
    None,
    /// The host, for which this process is the first of the sandbox.
    Host(Handover),
    /// The parent process, which waits for a byte.
    Parent(OwnedFd),
}

impl Report {
    /// Reports that only the payload is left to start: this process is in all namespaces of the sandbox and has given up what the
    /// payload may not do. Without the report the host could not enter the sandbox.
    pub fn send(self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Host(handover) => {
                let first = handover.init;
                handover.publish(first)
            }
            Self::Parent(ready) => File::from(ready)
                .write_all(&[0])
                .context("telling that the sandbox has booted"),
        }
    }
}
