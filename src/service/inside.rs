//! Reaching into a running sandbox.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::guest;
use crate::sys::command::Captured;
use crate::sys::deadline::Ended;
use crate::sys::enter::{self, Entrance, Entry};

/// A running sandbox, to run commands in.
#[derive(Debug)]
pub struct Inside {
    entrance: Entrance,
    pid: u32,
}

impl Inside {
    /// The sandbox that process `controller` keeps.
    ///
    /// # Errors
    /// Where it has ended meanwhile, or guest-init is not installed.
    pub fn new(controller: u32) -> Result<Self> {
        let pid = enter::first_process(controller)
            .ok_or_else(|| Error::refused("the sandbox has ended meanwhile".to_owned()))?;
        Ok(Self {
            entrance: Entrance::new(&guest::find_init()?)?,
            pid,
        })
    }

    /// Runs a command of the sandbox to its end, as its root.
    ///
    /// # Errors
    /// Where the way in is barred; a command that fails is no error.
    pub fn capture(&self, command: &[&str]) -> Result<Captured> {
        self.entrance.capture(self.pid, command).map_err(Error::io(
            "running",
            Path::new(command.first().copied().unwrap_or_default()),
        ))
    }

    /// As [`capture`](Self::capture), but a command that takes longer than `limit` is ended, and gives `None`.
    ///
    /// # Errors
    /// Where the way in is barred.
    pub fn capture_within(&self, command: &[&str], limit: Duration) -> Result<Option<Ended>> {
        let done = self.entrance.capture_within(self.pid, command, limit);
        done.map_err(Error::step("entering the sandbox"))
    }

    /// Becomes a command of the sandbox; returns only on failure.
    pub fn exec(&self, how: &Entry, command: &[String]) -> io::Error {
        self.entrance.exec(self.pid, how, command)
    }
}
