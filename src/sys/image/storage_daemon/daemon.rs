//! Starts QEMU's storage daemon and supervises it until its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::sync::mpsc::Sender;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::broker::{self, BrokeredFiles};
use super::{Deadline, Image, confine};
use crate::sys::process::pidfd::Process;

const DAEMON: &str = "qemu-storage-daemon";
/// Directories where distributions install the daemon.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];
/// Interval between two looks at the deadline, in milliseconds.
const POLL_INTERVAL: u16 = 500;
/// Bytes of its error output that are read.
const MAX_STDERR: u64 = 16 << 10;

/// Command line of the daemon.
pub struct DaemonCommand {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// `/dev/fuse` of a mounted filesystem.
    pub(super) device: File,
}

impl DaemonCommand {
    /// Returns the command line that shows `image` on the FUSE filesystem of `device`.
    ///
    /// # Errors
    /// If the daemon is not installed, or the path is not valid in JSON.
    pub fn new(image: &Image<'_>, device: File) -> io::Result<Self> {
        let Some(path) = image.path.to_str() else {
            return Err(io::Error::other("its path is not UTF-8, which JSON is"));
        };
        let mut places = PLACES.iter().map(|place| PathBuf::from(place).join(DAEMON));
        let Some(program) = places.find(|program| program.is_file()) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no {DAEMON} in {}", PLACES.join(", ")),
            ));
        };
        let file = serde_json::json!({
            "driver": "file", "filename": path, "node-name": "file", "read-only": image.read_only, "locking": "on",
        });
        let mut format = serde_json::json!({
            "driver": image.format, "file": "file", "node-name": "image", "read-only": image.read_only,
        });
        // Other formats have no such option.
        if !image.backing && ["qcow", "qcow2", "qed", "vmdk"].contains(&image.format) {
            format["backing"] = serde_json::Value::Null;
        }
        let export = serde_json::json!({
            "type": "fuse", "id": "export", "node-name": "image", "writable": !image.read_only,
            // libfuse accepts the descriptor of a filesystem that is already mounted
            // (fuse_session_mount() since 3.3).
            "mountpoint": format!("/dev/fd/{}", device.as_raw_fd()),
        });
        let options = [
            ("--blockdev", file),
            ("--blockdev", format),
            ("--export", export),
        ];
        let arguments = options
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value.to_string()]);
        Ok(Self {
            program,
            arguments: arguments.collect(),
            device,
        })
    }
}

/// Runs the daemon, and answers its requests for files until it ends or the deadline passes. Returns its
/// error output. The calling thread gives up its view of the host, and the daemon ends with this thread
/// (`PR_SET_PDEATHSIG`).
///
/// # Errors
/// If the daemon cannot be confined or started, or does not end in time.
pub fn run(
    arguments: DaemonCommand,
    given: &BrokeredFiles,
    deadline: &Deadline,
    started: &Sender<Process>,
) -> io::Result<String> {
    let (mut child, listener) = start(arguments)?;
    let process = Process::open(child.id())?;
    let _ = started.send(Process::open(child.id())?);
    let is_over = || {
        let deadline = *deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.is_some_and(|deadline| Instant::now() > deadline)
    };
    loop {
        let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polled, PollTimeout::from(POLL_INTERVAL));
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            broker::answer_next(&listener, given);
        }
        // Nobody is left to ask: no thread (Linux 5.9), or no process.
        if events.contains(PollFlags::POLLHUP) || process.wait(std::time::Duration::ZERO) {
            return said(&mut child);
        }
        if is_over() {
            child.kill()?;
            child.wait()?;
            let error = format!("{DAEMON} does not answer, and was killed");
            return Err(io::Error::new(io::ErrorKind::TimedOut, error));
        }
    }
}

fn start(arguments: DaemonCommand) -> io::Result<(Child, OwnedFd)> {
    let DaemonCommand {
        program,
        arguments,
        device,
    } = arguments;
    let filter = confine::filter()?;
    let number = device.as_raw_fd();
    let confining =
        |error: io::Error| io::Error::new(error.kind(), format!("confining {DAEMON}: {error}"));
    confine::leave_host(&program, number).map_err(confining)?;
    let mut command = Command::new(confine::PROGRAM);
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let listening = confine::confine(&mut command, filter, number)?;
    let child = command.spawn().map_err(confining)?;
    // Drops the last copy of the other end on the host, so that the end of the daemon is seen.
    drop(device);
    drop(command);
    match confine::receive_listener(&listening) {
        Ok(listener) => Ok((child, listener)),
        Err(error) => {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
            Err(confining(error))
        }
    }
}

/// Returns the error output of a daemon that has ended, in one line, or its exit status if there is none.
fn said(child: &mut Child) -> io::Result<String> {
    let status = child.wait()?;
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_STDERR).read_to_end(&mut text)?;
    }
    Ok(match String::from_utf8_lossy(&text).trim() {
        "" => format!("{DAEMON}: {status}"),
        reason => reason.lines().collect::<Vec<_>>().join("; "),
    })
}
