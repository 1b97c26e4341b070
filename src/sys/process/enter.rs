//! Entering a running container with guest-init's `enter`, run from a sealed copy in memory.
//!
//! A process that is about to join a sandbox can be seen by the sandbox's root, which can open its program
//! for writing through `/proc/PID/exe` (CVE-2019-5736). So the installed file is never executed.

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
use super::first_process::FirstProcess;
use crate::error::{Error, Result};

/// Number of attempts to seal the copy, and the pause between them.
const SEALING: (u32, Duration) = (100, Duration::from_millis(20));

/// Seals the copy, with retries: the kernel refuses while it holds a page of the file, for example to compact
/// memory (`F_SEAL_WRITE` of fcntl(2)).
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

/// Sealed copy of guest-init in memory.
#[derive(Debug)]
pub struct SealedInit {
    program: File,
    config: PathBuf,
}

impl SealedInit {
    /// Copies the guest-init at `path`. Commands are confined as the guest config at `config` says.
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

    /// Runs `command` as root in the sandbox of the process `first`, without standard input. Returns
    /// `None` if it was killed because it took longer than `limit`.
    pub fn capture(
        &self,
        first: &FirstProcess,
        command: &[&str],
        limit: Duration,
    ) -> io::Result<Option<Captured>> {
        let mut entering = self.entering(first);
        entering.arg("--").args(command);
        deadline::run(entering, limit)
    }

    /// Replaces this process by `command` in the sandbox of the process `first`; returns only on failure.
    pub fn exec(&self, first: &FirstProcess, how: &ExecOptions, command: &[String]) -> io::Error {
        let mut entering = self.entering(first);
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

    fn entering(&self, first: &FirstProcess) -> Command {
        // The path is resolved before execve(2) closes the descriptor.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.args(["enter", "--pid", &first.process.pid().to_string()]);
        command.args(["--identity", &first.identity.to_string()]);
        command.arg("--config").arg(&self.config);
        command
    }
}

/// Options of a command that runs inside a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Whether to allocate a terminal in the sandbox and connect it to the caller's.
    pub terminal: bool,
    /// User to run as; root if absent.
    pub user: Option<String>,
    /// Working directory; the user's home if absent.
    pub directory: Option<PathBuf>,
    /// Additional environment variables.
    pub environment: Vec<(String, String)>,
}
