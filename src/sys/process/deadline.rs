//! Untrusted commands with a time limit: they may run for ever, write without end, or leave processes behind
//! that keep their output open.

use std::io::{self, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use guest_init::sys::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::Captured;
use super::pidfd::Process;

/// Bytes of standard output that are kept.
pub const MAX_STDOUT: usize = 16 << 20;

/// Bytes of standard error that are kept.
pub const MAX_STDERR: usize = 1 << 18;

/// Interval between two looks at a command that was told to end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Time for a command to end after a signal, and for its output to arrive after its end.
const GRACE: Duration = Duration::from_secs(2);

/// Runs `command` without standard input, and keeps the beginning of its output. Returns `None` if it was
/// killed because it took longer than `limit`.
pub fn run(mut command: Command, limit: Duration) -> io::Result<Option<Captured>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child
        .stdout
        .take()
        .map(|stdout| read_beginning(stdout, MAX_STDOUT));
    let stderr = child
        .stderr
        .take()
        .map(|stderr| read_beginning(stderr, MAX_STDERR));
    let (process, begin) = (Process::open(child.id())?, Instant::now());
    // A signal to this process may end the wait early.
    while !process.wait(limit.saturating_sub(begin.elapsed())) {
        if begin.elapsed() >= limit {
            terminate(&mut child);
            return Ok(None);
        }
    }
    let status = child.wait()?;
    let said = |from: Option<Receiver<Vec<u8>>>| {
        from.and_then(|from| from.recv_timeout(GRACE).ok())
            .unwrap_or_default()
    };
    Ok(Some(Captured::from(Output {
        status,
        stdout: said(stdout),
        stderr: said(stderr),
    })))
}

/// Reads the first `most` bytes of a stream in a thread and discards the rest.
///
/// The thread is not joined: a process that the command left behind may keep the stream open for ever.
fn read_beginning(mut stream: impl Read + Send + 'static, most: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let read = (&mut stream).take(most as u64).read_to_end(&mut kept);
        let _ = sender.send(kept);
        if read.is_ok() {
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    receiver
}

/// Ends a process, by SIGKILL if necessary. A process that the kernel cannot end, because it is frozen, is
/// left alone.
fn terminate(child: &mut Child) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        if poll::until(GRACE, POLL_INTERVAL, || {
            !matches!(child.try_wait(), Ok(None))
        }) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Option<Captured> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, limit).unwrap()
    }

    #[test]
    fn nothing_holds_us_up() {
        let long = Duration::from_secs(60);
        let done = shell("echo out; echo err >&2; exit 3", long).unwrap();
        let said = (done.success, done.stdout.as_str(), done.stderr.as_str());
        assert_eq!(said, (false, "out\n", "err"));
        // Endless output, more than a pipe holds.
        let done = shell("head -c 3000000 /dev/zero >&2", long).unwrap();
        assert_eq!((done.success, done.stderr.len()), (true, 1 << 18));
        let done = shell("head -c 30000000 /dev/zero", long).unwrap();
        assert_eq!((done.success, done.stdout.len()), (true, 16 << 20));
        // A process that is left behind with the output open.
        let begin = Instant::now();
        assert!(shell("echo err >&2; sleep 30 & exit 0", long).is_some());
        assert!(begin.elapsed() < Duration::from_secs(25));
        assert_eq!(
            shell("trap '' TERM; while :; do sleep 1; done", POLL_INTERVAL),
            None
        );
        assert!(!shell("kill -KILL $$", long).unwrap().success);
    }
}
