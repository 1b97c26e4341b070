//! First process of a container, as guest-init hands it over to the host.
//!
//! A pid is not enough: while a container starts there is a process of libvirt, then guest-init, then the first process of the
//! sandbox, and pids are reused. So guest-init writes a [`Record`] to the staging root, which the sandbox cannot reach, once only the
//! payload is left to start. The host enters the process that the record describes, or none.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// File name of the record in the staging root. The file is empty until the sandbox has booted.
pub const RECORD: &str = "first.json";

/// Identity of the first process of a pid namespace. No other process has the same: the kernel reuses inode numbers of namespaces, but
/// not within a clock tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Identity {
    /// Inode number of its pid namespace (`namespaces(7)`).
    pub namespace: u64,
    /// Clock ticks from the host's boot to its start (field 22 of `proc_pid_stat(5)`).
    pub started: u64,
}

/// First processes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// Process that libvirt has started.
    pub init: Identity,
    /// First process of the sandbox: a child of `init` where the sandbox has a user namespace, else `init` itself.
    pub first: Identity,
}

/// Directory of a process in `/proc`, held open. Once the process has ended, access to its files fails, even if another process has the
/// same pid.
#[derive(Debug)]
pub struct ProcDir {
    pid: u32,
    directory: File,
}

impl ProcDir {
    /// Opens the directory of the process with this pid.
    pub fn open(pid: u32) -> io::Result<Self> {
        let directory = File::open(format!("/proc/{pid}"))?;
        Ok(Self { pid, directory })
    }

    /// Returns the pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the path of a file, which is valid until this is dropped.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.directory.as_raw_fd()).into()
    }

    /// Opens a file of the process. An error names it as `/proc/PID/…`.
    pub fn file(&self, name: &str) -> io::Result<File> {
        File::open(self.path(name)).map_err(|error| self.failed(name, &error))
    }

    /// Reads a file of the process. An error names it as `/proc/PID/…`.
    pub fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.path(name)).map_err(|error| self.failed(name, &error))
    }

    /// Reads the identity of the process.
    ///
    /// # Errors
    /// If it has ended, or this process may not read it.
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

/// Parses the start time in `/proc/PID/stat` (field 22). The second field is in parentheses and may contain some.
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

/// A text is not the identity of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseIdentityError(String);

impl Display for ParseIdentityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "'{}' is not NAMESPACE:START", self.0)
    }
}

impl std::error::Error for ParseIdentityError {}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        let parse = || {
            let (namespace, started) = text.split_once(':')?;
            Some(Self {
                namespace: namespace.parse().ok()?,
                started: started.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ParseIdentityError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_identity_round_trips() {
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
    fn the_start_time_is_parsed() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
        assert_eq!(parse_start(stat), Some(12345));
        assert_eq!(parse_start("7 (a S 1"), None);
    }

    #[test]
    fn files_of_an_ended_process_cannot_be_read() {
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
