//! Programs of the host. This and [`enter`](super::enter) are the only places that start one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// What a program that ended has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Whether it ended with status 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error, or its exit status where it failed without a word.
    pub stderr: String,
}

impl From<Output> for Captured {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Self {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: if stderr.is_empty() && !output.status.success() {
                output.status.to_string()
            } else {
                stderr
            },
        }
    }
}

/// Runs `program` to its end. It has no standard input and speaks the language of programs.
///
/// # Errors
/// Where it cannot be started.
pub fn capture<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> io::Result<Captured> {
    Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map(Captured::from)
}

/// Does the same as [`capture`] for a program and arguments that are paths, and returns the exit status as well.
///
/// # Errors
/// Where it cannot be started.
pub fn capture_paths<'a>(
    program: &Path,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> io::Result<(ExitStatus, Captured)> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()?;
    Ok((output.status, output.into()))
}

/// As [`capture()`], with `input` as standard input.
///
/// # Errors
/// Where it cannot be started. One that does not read all of its input is no error: its status tells.
pub fn feed<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
    input: &str,
) -> io::Result<Captured> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map(Captured::from)
}

/// The program that runs, to be started once more: where another was put in its place, that one.
///
/// # Errors
/// Where it was removed.
pub fn own() -> io::Result<PathBuf> {
    in_place(std::env::current_exe()?)
}

fn in_place(path: PathBuf) -> io::Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    // What the kernel says of a file whose name is another's now, or nobody's (proc_pid_exe(5)).
    let name = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    let replaced = name.map(|name| PathBuf::from(OsStr::from_bytes(name)));
    replaced.filter(|path| path.exists()).ok_or_else(|| {
        let text = format!("the program '{}' was removed", path.display());
        io::Error::new(ErrorKind::NotFound, text)
    })
}

/// Starts `program` with our standard output and error, and no standard input. It ends when we do, however that is.
///
/// # Errors
/// Where it cannot be started.
pub fn spawn<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> io::Result<Child> {
    // Of util-linux, as mount(8) is; by itself only a child that is not yet the program could ask for it (prctl(2)).
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", program])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
}

/// Starts `program`, which outlives us, without standard input, and with `output` for what it says. `files` stay open for it;
/// their numbers follow `arguments`.
///
/// # Errors
/// Where it cannot be started.
pub fn leave(
    program: &Path,
    arguments: &[&str],
    files: &[BorrowedFd<'_>],
    output: File,
) -> io::Result<Child> {
    // Duplicates are not closed when a program is started (dup(2)).
    let left: Vec<OwnedFd> = files
        .iter()
        .map(nix::unistd::dup)
        .collect::<Result<_, _>>()?;
    Command::new(program)
        .args(arguments)
        .args(left.iter().map(|file| file.as_raw_fd().to_string()))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
}

/// Starts `program` without standard input, and with both its outputs for us to read.
///
/// # Errors
/// Where it cannot be started.
pub fn spawn_piped<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Runs `program` to its end with our standard streams.
///
/// # Errors
/// Where it cannot be started.
pub fn interact<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> io::Result<ExitStatus> {
    Command::new(program).args(arguments).status()
}

/// Whether `program` is somewhere in `$PATH`.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Becomes the program at a path; returns only on failure.
pub fn become_program(program: &Path, arguments: impl IntoIterator<Item = OsString>) -> io::Error {
    Command::new(program).args(arguments).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let replaced = dir.path().join("program (deleted)");
        let error = in_place(replaced.clone()).unwrap_err().to_string();
        assert!(error.ends_with("program (deleted)' was removed"), "{error}");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(in_place(replaced.clone()).unwrap(), path);
        std::fs::write(&replaced, "of this very name").unwrap();
        assert_eq!(in_place(replaced.clone()).unwrap(), replaced);
    }
}
