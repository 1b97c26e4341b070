//! The way into a running container: guest-init's `enter`, run from a sealed copy in memory.
//!
//! A process that is about to join a sandbox can be seen, and its program opened for writing, by the
//! sandbox's root through `/proc/PID/exe` (CVE-2019-5736); so what runs is never the installed file.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::command::Captured;
use super::deadline;
use crate::error::{Error, Result};

/// A copy of guest-init that nobody can change.
#[derive(Debug)]
pub struct Entrance {
    program: File,
}

impl Entrance {
    /// Copies the guest-init at `path`.
    ///
    /// # Errors
    /// Where it cannot be read or there is no memory for it.
    pub fn new(path: &Path) -> Result<Self> {
        let content = fs::read(path).map_err(Error::io("reading", path))?;
        let failed = |source: std::io::Error| Error::Io {
            doing: "copying into memory",
            path: path.to_owned(),
            source,
        };
        let name = CString::from(c"guest-init");
        let fd = memfd_create(
            name.as_c_str(),
            MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC,
        )
        .map_err(|errno| failed(errno.into()))?;
        let mut program = File::from(fd);
        program.write_all(&content).map_err(failed)?;
        let seals = SealFlag::F_SEAL_SEAL
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_WRITE;
        fcntl(&program, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| failed(errno.into()))?;
        Ok(Self { program })
    }

    /// Runs `command` to its end in the sandbox of process `pid`, as its root, without standard input.
    ///
    /// # Errors
    /// Where the entrance cannot be started.
    pub fn capture(&self, pid: u32, command: &[&str]) -> io::Result<Captured> {
        let mut entering = self.entering(pid);
        entering.arg("--").args(command).stdin(Stdio::null());
        Ok(entering.output()?.into())
    }

    /// As [`capture`](Self::capture), but a command that takes longer than `limit` is ended, and gives `None`.
    ///
    /// # Errors
    /// Where the entrance cannot be started.
    pub fn capture_within(
        &self,
        pid: u32,
        command: &[&str],
        limit: Duration,
    ) -> io::Result<Option<Captured>> {
        let mut entering = self.entering(pid);
        entering.arg("--").args(command);
        deadline::run(entering, limit)
    }

    /// Becomes `command` in the sandbox of process `pid`, with our standard streams; returns only on failure.
    pub fn exec(&self, pid: u32, how: &Entry, command: &[String]) -> io::Error {
        let mut entering = self.entering(pid);
        if how.terminal {
            entering.arg("--terminal");
        }
        if let Some(user) = &how.user {
            entering.args(["--user", user]);
        }
        if let Some(directory) = &how.directory {
            entering.arg("--directory").arg(directory);
        }
        for (key, value) in &how.environment {
            entering.args(["--env", &format!("{key}={value}")]);
        }
        entering.arg("--").args(command).exec()
    }

    fn entering(&self, pid: u32) -> Command {
        // The path is resolved before execve(2) closes the descriptor.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.args(["enter", "--pid", &pid.to_string()]);
        command
    }
}

/// How a command is run inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Give it a terminal of the sandbox, connected to ours.
    pub terminal: bool,
    /// The user it runs as; root if absent.
    pub user: Option<String>,
    /// The directory it starts in; the user's home if absent.
    pub directory: Option<PathBuf>,
    /// Added to its environment.
    pub environment: Vec<(String, String)>,
}

/// The first process of a container: the child of the process that keeps it (`proc_tid_children(5)`, and where
/// the kernel has none, by looking at every process).
#[must_use]
pub fn first_process(controller: u32) -> Option<u32> {
    let children = format!("/proc/{controller}/task/{controller}/children");
    if let Ok(text) = fs::read_to_string(children) {
        return text.split_whitespace().next()?.parse().ok();
    }
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| parent(*pid) == Some(controller))
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status"))).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
}
