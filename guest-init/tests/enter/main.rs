//! Commands entered by the real program. The sandbox entered is the one we are in, so that all but
//! the separation is real: streams, terminals, signals and exit statuses. Needs root; is skipped
//! without.
#![allow(clippy::unwrap_used)]

mod terminal;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes as long.
const LIMIT: Duration = Duration::from_secs(20);

/// `guest-init enter` with these options; `None` without the right to do so.
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-init"));
    command.args(["enter", "--pid", &std::process::id().to_string()]);
    command.args(options).arg("--").args(words);
    Some(command)
}

/// The exit status, within the limit.
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

/// Runs it with some input and gives its exit status and output.
pub fn run(mut command: Command, input: &[u8]) -> (i32, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may well end without having read everything.
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
            // Rust's runtime ignores it, the command has not to.
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
fn a_directory_that_is_asked_for_has_to_be_there() {
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

/// Runs a command line of a shell in whose place the program is run.
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
fn a_caller_that_ignores_its_children_is_no_hindrance() {
    let Some((status, _)) = run_from_shell("trap '' CHLD", "exit 4") else {
        return;
    };
    assert_eq!(status, 4);
}
