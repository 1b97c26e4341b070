//! QEMU's storage daemon: starting it, and staying with it until it ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::sync::mpsc::Sender;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::broker::{self, Given};
use super::{Deadline, Image, confine};
use crate::sys::process::pidfd::Process;

const DAEMON: &str = "qemu-storage-daemon";
/// Where it is installed.
const PLACES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];
/// Between two looks at the deadline, in milliseconds.
const LOOK: u16 = 500;
/// The most that is read of what it says.
const MOST_SAID: u64 = 16 << 10;

/// The daemon's command.
pub struct Arguments {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// `/dev/fuse` of a filesystem that is mounted.
    pub(super) device: File,
}

impl Arguments {
    /// How to show `image` to whoever has mounted the filesystem of `device`.
    ///
    /// # Errors
    /// Where the daemon is not installed, or the path cannot be written in JSON.
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
        // The others have no such option.
        if !image.backing && ["qcow", "qcow2", "qed", "vmdk"].contains(&image.format) {
            format["backing"] = serde_json::Value::Null;
        }
        let export = serde_json::json!({
            "type": "fuse", "id": "export", "node-name": "image", "writable": !image.read_only,
            // Of a filesystem that is mounted already libfuse takes the descriptor (fuse_session_mount() since 3.3).
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

/// Runs the daemon, and answers what it asks for until it ends or the deadline is over; gives what it said. This thread gives up
/// its view of the host for that, and is the one with which the daemon ends (`PR_SET_PDEATHSIG`).
///
/// # Errors
/// Where it cannot be confined or started, or does not end in time.
pub fn run(
    arguments: Arguments,
    given: &Given,
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
        let _ = poll(&mut polled, PollTimeout::from(LOOK));
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            broker::answer(&listener, given);
        }
        // Without a thread left that could ask (Linux 5.9), or a process.
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

fn start(arguments: Arguments) -> io::Result<(Child, OwnedFd)> {
    let Arguments {
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
    // With this the last that the host has of the other end is gone, so that its end is seen.
    drop(device);
    drop(command);
    match confine::received(&listening) {
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
        stderr.take(MOST_SAID).read_to_end(&mut text)?;
    }
    Ok(match String::from_utf8_lossy(&text).trim() {
        "" => format!("{DAEMON}: {status}"),
        reason => reason.lines().collect::<Vec<_>>().join("; "),
    })
}
