//! Commands entered by the real program, in namespaces that are made for it: streams, terminals, signals, exit statuses, and
//! targets that are refused. Needs root; skipped without.
#![allow(clippy::unwrap_used)]

mod refused;
mod streams;
mod terminal;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use guest_init::sys::first_process::ProcDir;

/// Time limit of each command.
const LIMIT: Duration = Duration::from_secs(20);

/// Returns `guest-init enter` with these options; `None` without root.
pub fn enter(options: &[&str], script: &str) -> Option<Command> {
    let mut command = enter_command(options, &["sh", "-c", script])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Some(command)
}

fn enter_command(options: &[&str], words: &[&str]) -> Option<Command> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: not root");
        return None;
    }
    static PLACE: OnceLock<Place> = OnceLock::new();
    let place = PLACE.get_or_init(|| Place::new(&ALL, NO_IDS));
    Some(place.command(options, words))
}

/// Options of unshare(1) for the namespaces of a sandbox without a user namespace.
const ALL: [&str; 6] = ["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"];
const NO_IDS: &str = "{\"idmap\":null}";

/// A guest config, and a process in namespaces of its own, which ends with this one.
#[derive(Debug)]
pub struct Place {
    first: ProcDir,
    config: tempfile::NamedTempFile,
    _holder: Holder,
}

/// unshare(1), which kills its child when it is killed.
#[derive(Debug)]
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    /// Starts a process with these options of unshare(1). A user namespace maps all ids to those of the host.
    pub fn new(namespaces: &[&str], config: &str) -> Self {
        let mut holder = Command::new("unshare");
        holder.args(namespaces).args(["--fork", "--kill-child"]);
        // cat ends when its input is closed.
        let script = if namespaces.contains(&"--user") || !namespaces.starts_with(&ALL[..2]) {
            "echo up && exec cat"
        } else {
            "mount -t proc proc /proc && echo up && exec cat"
        };
        holder.args(["sh", "-c", script]);
        holder.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        let mut up = [0; 3];
        holder.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        let id = holder.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let first = ProcDir::open(children.trim().parse().unwrap()).unwrap();
        if namespaces.contains(&"--user") {
            for map in ["uid_map", "gid_map"] {
                fs::write(first.path(map), "0 0 65536\n").unwrap();
            }
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(config.as_bytes()).unwrap();
        Self {
            first,
            config: file,
            _holder: Holder(holder),
        }
    }

    /// Returns `guest-init enter` with these options.
    pub fn command(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest-init"));
        let identity = self.first.identity().unwrap().to_string();
        command.args(["enter", "--pid", &self.first.pid().to_string()]);
        command
            .args(["--identity", &identity, "--config"])
            .arg(self.config.path());
        command.args(options).arg("--").args(words);
        command
    }
}

/// Waits for the exit status, within the limit.
pub fn status(child: &mut Child) -> i32 {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap();
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command with some input and returns its exit status and output.
pub fn run(mut command: Command, input: &[u8]) -> (i32, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The command may end before it has read everything.
    let writer = thread::spawn(move || stdin.write_all(&input).is_ok());
    let mut stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).unwrap();
        String::from_utf8_lossy(&output).into_owned()
    });
    let status = status(&mut child);
    let _ = writer.join();
    (status, reader.join().unwrap())
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    for terminal in [&[][..], &["--terminal"]] {
        for (words, expected) in [
            (&["sh", "-c", "exit 7"][..], 7),
            (&["sh", "-c", "kill -TERM $$"], 143),
            (&["sh", "-c", "kill -KILL $$"], 137),
            // Rust's runtime ignores SIGPIPE, the command must not.
            (&["sh", "-c", "kill -PIPE $$"], 141),
            (&["/no/such/program"], 127),
            (&["no-such-program"], 127),
            (&["/etc/passwd"], 126),
        ] {
            let Some(command) = enter_command(terminal, words) else {
                return;
            };
            let (status, output) = run(command, b"");
            assert_eq!(status, expected, "{terminal:?} {words:?}: {output}");
        }
    }
}

#[test]
fn a_missing_directory_is_an_error() {
    for (directory, expected) in [("/usr", (0, "/usr\n")), ("/no/such", (125, ""))] {
        let Some(command) = enter(&["--directory", directory], "pwd") else {
            return;
        };
        assert_eq!(run(command, b""), (expected.0, expected.1.to_owned()));
    }
}

#[test]
fn streams_are_the_callers_own() {
    let Some(command) = enter(&[], "cat; test -t 0") else {
        return;
    };
    assert_eq!(run(command, b"a\0\x04b"), (1, "a\0\x04b".to_owned()));
}

/// Runs `enter` by exec from a shell, after a prologue.
fn run_from_shell(prologue: &str, script: &str) -> Option<(i32, String)> {
    let entering = enter(&[], script)?;
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{prologue}; exec \"$@\""), "sh"]);
    shell.arg(entering.get_program()).args(entering.get_args());
    Some(run(shell, b""))
}

#[test]
fn files_of_the_caller_stay_outside() {
    let script = "for fd in 3 9; do test ! -e /proc/$$/fd/$fd || echo $fd; done";
    let Some(outcome) = run_from_shell("exec 3</ 9</etc/passwd", script) else {
        return;
    };
    assert_eq!(outcome, (0, String::new()));
}

#[test]
fn a_caller_may_ignore_sigchld() {
    let Some((status, _)) = run_from_shell("trap '' CHLD", "exit 4") else {
        return;
    };
    assert_eq!(status, 4);
}
