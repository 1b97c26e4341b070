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
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::command::Captured;
use super::deadline;
use crate::error::{Error, Result};

/// How often sealing is tried again, and after how long.
const SEALING: (u32, Duration) = (100, Duration::from_millis(20));

/// The kernel refuses to seal a file of which it holds a page at the moment, as it does to compact memory (`F_SEAL_WRITE` of
/// fcntl(2)).
fn seal(file: &File, seals: SealFlag) -> nix::Result<()> {
    let (times, pause) = SEALING;
    for _ in 0..times {
        match fcntl(file, FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) => sleep(pause),
            sealed => return sealed.map(drop),
        }
    }
    Err(Errno::EBUSY)
}

/// A copy of guest-init that nobody can change.
#[derive(Debug)]
pub struct Entrance {
    program: File,
    config: PathBuf,
}

impl Entrance {
    /// Copies the guest-init at `path`. What is run is confined as the guest config at `config` says.
    ///
    /// # Errors
    /// Where it cannot be read or there is no memory for it.
    pub fn new(path: &Path, config: PathBuf) -> Result<Self> {
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
        seal(&program, seals).map_err(|errno| failed(errno.into()))?;
        Ok(Self { program, config })
    }

    /// Runs `command` in the sandbox of process `pid`, as its root, without standard input. One that takes longer than `limit` is
    /// ended, and gives `None`.
    ///
    /// # Errors
    /// Where the entrance cannot be started.
    pub fn capture(
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
        for (number, (key, value)) in how.environment.iter().enumerate() {
            let variable = format!("{}{number}", guest_init::ENTER_VARIABLE);
            entering.env(variable, format!("{key}={value}"));
            entering.args(["--env", &number.to_string()]);
        }
        entering.arg("--").args(command).exec()
    }

    fn entering(&self, pid: u32) -> Command {
        // The path is resolved before execve(2) closes the descriptor.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.args(["enter", "--pid", &pid.to_string(), "--config"]);
        command.arg(&self.config);
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

/// The first process of a sandbox that process `controller` keeps. One in a user namespace of its own is a child of the one
/// that libvirt has started, and is the first in a namespace of processes below.
#[must_use]
pub fn first_process(controller: u32) -> Option<u32> {
    let init = init_process(controller)?;
    let depth = depth(init)?.0;
    let is_first = |pid: &u32| depth_is(*pid, depth + 1);
    match is_guest_init(init) {
        true => children(init).into_iter().find(is_first).or(Some(init)),
        false => Some(init),
    }
}

/// The process that libvirt has started in a container: the child of the one that keeps it.
#[must_use]
pub fn init_process(controller: u32) -> Option<u32> {
    children(controller).into_iter().next()
}

/// As `proc_tid_children(5)` has them, and where the kernel does not, by looking at every process.
fn children(pid: u32) -> Vec<u32> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    if let Ok(text) = fs::read_to_string(children) {
        let numbers = text.split_whitespace();
        return numbers.filter_map(|number| number.parse().ok()).collect();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|other| parent(*other) == Some(pid))
        .collect()
}

/// A service's init has become another program.
fn is_guest_init(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    is_named_guest_init(&program)
}

/// The copy it was started from may have been replaced since (`proc_pid_exe(5)`).
fn is_named_guest_init(program: &Path) -> bool {
    let text = program.to_string_lossy();
    let text = text.strip_suffix(" (deleted)").unwrap_or(&text);
    Path::new(text).ends_with("guest-init")
}

/// Whether a process is the first of a namespace of processes that is so deep.
fn depth_is(pid: u32, wanted: usize) -> bool {
    depth(pid) == Some((wanted, 1))
}

/// How deep a process is in namespaces of processes, and its number in the innermost (`NSpid`, `proc_pid_status(5)`).
fn depth(pid: u32) -> Option<(usize, u32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers: Vec<u32> = line
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    Some((numbers.len(), *numbers.last()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_init_is_known_also_when_it_was_replaced() {
        for (program, is_it) in [
            ("/guest-init", true),
            ("/guest-init (deleted)", true),
            ("/usr/lib/systemd/systemd", false),
            ("/x-guest-init", false),
        ] {
            assert_eq!(is_named_guest_init(Path::new(program)), is_it, "{program}");
        }
    }
}
