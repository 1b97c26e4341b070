//! Reaching into a running sandbox.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::guest;
use crate::sys::command::Captured;
use crate::sys::enter::{self, Entrance, Entry};

/// A running sandbox, to run commands in.
#[derive(Debug)]
pub struct Inside {
    entrance: Entrance,
    controller: u32,
}

impl Inside {
    /// The sandbox that process `controller` keeps, with the staging root `stage`.
    ///
    /// # Errors
    /// Where it has ended meanwhile, or guest-init is not installed.
    pub fn new(controller: u32, stage: &Path) -> Result<Self> {
        let inside = Self {
            entrance: Entrance::new(&guest::find_init()?, stage.join(guest::CONFIG))?,
            controller,
        };
        inside.pid().map(|_| inside)
    }

    /// Its first process. While a sandbox starts that is one which only makes the real one.
    fn pid(&self) -> Result<u32> {
        enter::first_process(self.controller)
            .ok_or_else(|| Error::refused("the sandbox has ended meanwhile"))
    }

    /// Runs a command of the sandbox to its end, as its root.
    ///
    /// # Errors
    /// Where the way in is barred; a command that fails is no error.
    pub fn capture(&self, command: &[&str]) -> Result<Captured> {
        self.entrance
            .capture(self.pid()?, command)
            .map_err(Error::io(
                "running",
                Path::new(command.first().copied().unwrap_or_default()),
            ))
    }

    /// Becomes a command of the sandbox; returns only on failure.
    pub fn exec(&self, how: &Entry, command: &[String]) -> io::Error {
        match self.pid() {
            Ok(pid) => self.entrance.exec(pid, how, command),
            Err(error) => io::Error::other(error),
        }
    }
}
