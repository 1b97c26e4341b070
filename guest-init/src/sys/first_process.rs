//! The first process of a container, as guest-init hands it over to the host.
//!
//! A number of a process says little: while a container starts there is libvirt's own process, then guest-init, then the first
//! process of the sandbox, and numbers are used again. So guest-init writes a [`Record`] into the staging root, which the sandbox
//! cannot reach, once nothing but the payload is left to start. The host takes the process that the record describes, or none.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name of the record in the staging root. It is empty until the sandbox has booted.
pub const RECORD: &str = "first.json";

/// Tells the first process of a namespace of processes from all others, also from later ones: the kernel uses inode numbers of
/// namespaces again, but not within a clock tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Identity {
    /// Inode number of its namespace of processes (`namespaces(7)`).
    pub namespace: u64,
    /// Clock ticks from the host's boot to its start (field 22 of `proc_pid_stat(5)`).
    pub started: u64,
}

/// The processes that a container begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// The process that libvirt has started.
    pub init: Identity,
    /// The first process of the sandbox: a child of `init` where the sandbox has a user namespace, else `init` itself.
    pub first: Identity,
}

/// A process, held by its directory in `/proc`: once it has ended all that is opened there fails, also when another process has
/// its number.
#[derive(Debug)]
pub struct ProcDir {
    pid: u32,
    directory: File,
}

impl ProcDir {
    /// Opens the directory of the process that has this number now.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(pid: u32) -> io::Result<Self> {
        let directory = File::open(format!("/proc/{pid}"))?;
        Ok(Self { pid, directory })
    }

    /// Returns its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns a path to one of its files, which is good while this lives.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()).into()
    }

    /// Opens one of its files.
    ///
    /// # Errors
    /// Names the file as `/proc` has it.
    pub fn file(&self, name: &str) -> io::Result<File> {
        File::open(self.path(name)).map_err(|error| self.failed(name, &error))
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// Names the file as `/proc` has it.
    pub fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.path(name)).map_err(|error| self.failed(name, &error))
    }

    /// Reads what tells it from other processes.
    ///
    /// # Errors
    /// Where it has ended, or is not ours to look at.
    pub fn identity(&self) -> io::Result<Identity> {
        let namespace = fs::metadata(self.path("ns/pid"));
        let namespace = namespace.map_err(|error| self.failed("ns/pid", &error))?;
        let started = parse_start(&self.read("stat")?);
        let none = || self.failed("stat", &io::Error::other("no start time in it"));
        Ok(Identity {
            namespace: namespace.ino(),
            started: started.ok_or_else(none)?,
        })
    }

    fn failed(&self, name: &str, error: &io::Error) -> io::Error {
        let text = format!("reading '/proc/{}/{name}': {error}", self.pid);
        io::Error::new(error.kind(), text)
    }
}

/// Field 22 of `/proc/PID/stat`, whose second field has brackets around it and may have some of its own.
#[must_use]
pub fn parse_start(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

impl Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.namespace, self.started)
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (namespace, started) = text.split_once(':')?;
            Some(Self {
                namespace: namespace.parse().ok()?,
                started: started.parse().ok()?,
            })
        };
        parse().ok_or_else(|| format!("'{text}' is not NAMESPACE:START"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_identity_is_written_and_read() {
        let identity = Identity {
            namespace: 4_026_531_836,
            started: 7,
        };
        assert_eq!(identity.to_string().parse(), Ok(identity));
        for bad in ["", "1", "1:", "a:1", "1:2:3"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_start_of_a_process_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
        assert_eq!(parse_start(stat), Some(12345));
        assert_eq!(parse_start("7 (a S 1"), None);
    }

    #[test]
    fn a_process_that_has_ended_has_no_files() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let process = ProcDir::open(child.id()).unwrap();
        let own = ProcDir::open(std::process::id()).unwrap();
        assert_ne!(process.identity().unwrap(), own.identity().unwrap());
        assert!(process.read("comm").is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.identity().is_err());
        assert!(process.read("comm").is_err() && process.file("ns/net").is_err());
    }
}
