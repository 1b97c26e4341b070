//! Programs of the host. Only this module and [`enter`](super::enter) start them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

/// Result of a program that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error, or the exit status if the program failed silently.
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

/// Runs `program` to its end, without standard input, in the C locale.
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

/// Runs `program` like [`capture`], with paths as arguments, and also returns the exit status.
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

/// Runs `program` like [`capture()`], with `input` as standard input. A program that does not read all of its
/// input is no error: the exit status decides.
pub fn capture_with_input<'a>(
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

/// Returns the path of the running program, to start it again. If it was replaced by an upgrade, that is the
/// new file.
///
/// # Errors
/// If the program was removed.
pub fn current_exe() -> io::Result<PathBuf> {
    strip_deleted(std::env::current_exe()?)
}

fn strip_deleted(path: PathBuf) -> io::Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    // Suffix that the kernel adds if the file was renamed or removed (proc_pid_exe(5)).
    let name = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    let replaced = name.map(|name| PathBuf::from(OsStr::from_bytes(name)));
    replaced.filter(|path| path.exists()).ok_or_else(|| {
        let text = format!("the program '{}' was removed", path.display());
        io::Error::new(ErrorKind::NotFound, text)
    })
}

/// Starts `program` without standard input. It ends when this process ends, even by a kill.
pub fn spawn<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> io::Result<Child> {
    // setpriv is part of util-linux, like mount(8). prctl(2) itself would have to be called in the child
    // before exec.
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", program])
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
}

/// Starts `program` so that it outlives this process: without standard input, with `output` for both its
/// outputs. `files` stay open in it; their numbers are appended to `arguments`.
pub fn spawn_detached(
    program: &Path,
    arguments: &[&str],
    files: &[BorrowedFd<'_>],
    output: File,
) -> io::Result<Child> {
    // Duplicates have no close-on-exec flag (dup(2)).
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

/// Starts `program` without standard input and with pipes for both its outputs.
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

/// Runs `program` to its end with the standard streams of this process.
pub fn interact<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> io::Result<ExitStatus> {
    Command::new(program).args(arguments).status()
}

/// Returns whether `program` is in `$PATH`.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Replaces this process by the program at a path (execve(2)); returns only on failure.
pub fn exec(program: &Path, arguments: impl IntoIterator<Item = OsString>) -> io::Error {
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
        let error = strip_deleted(replaced.clone()).unwrap_err().to_string();
        assert!(error.ends_with("program (deleted)' was removed"), "{error}");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(strip_deleted(replaced.clone()).unwrap(), path);
        std::fs::write(&replaced, "of this very name").unwrap();
        assert_eq!(strip_deleted(replaced.clone()).unwrap(), replaced);
    }
}
