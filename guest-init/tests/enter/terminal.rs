//! Commands that have a terminal of the sandbox.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::{enter, run, status};

const TERMINAL: &[&str] = &["--terminal"];

#[test]
fn all_output_arrives() {
    for _ in 0..10 {
        let Some(command) = enter(TERMINAL, "seq 1 20000; exit 3") else {
            return;
        };
        let (status, output) = run(command, b"");
        assert_eq!(status, 3);
        let expected: String = (1..=20000).map(|line| format!("{line}\r\n")).collect();
        // The terminal echoes the end of the input.
        assert_eq!(output.replace("^D\u{8}\u{8}", ""), expected);
    }
}

#[test]
fn a_command_may_end_without_reading_its_input() {
    let input = b"line\n".repeat(20_000);
    for _ in 0..20 {
        let Some(command) = enter(TERMINAL, "exit 6") else {
            return;
        };
        assert_eq!(run(command, &input).0, 6);
    }
}

#[test]
fn the_end_of_the_input_is_told_once() {
    // Also in the middle of a line.
    for input in ["", "abc", "abc\n"] {
        let script =
            "cat; stty raw -echo; echo rest:; sleep 0.3; timeout --foreground 0.3 cat | wc -c";
        let Some(command) = enter(TERMINAL, script) else {
            return;
        };
        let (status, output) = run(command, input.as_bytes());
        assert_eq!(status, 0);
        let (before, after) = output.split_once("rest:").unwrap();
        assert!(before.contains(input.trim_end()), "{output:?}");
        assert_eq!(after.trim(), "0", "{output:?}");
    }
}

#[test]
fn a_process_left_behind_does_not_keep_us() {
    let script = "trap '' HUP; yes & exit 3";
    let Some(command) = enter(TERMINAL, script) else {
        return;
    };
    assert_eq!(run(command, b"").0, 3);
}

#[test]
fn much_goes_both_ways_at_once() {
    const COUNT: usize = 300_000;
    let script = format!("stty raw -echo; echo ready; head -c {COUNT}");
    let Some(mut command) = enter(TERMINAL, &script) else {
        return;
    };
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let writer = thread::spawn(move || {
        stdin.write_all(&vec![b'x'; COUNT]).unwrap();
        stdin
    });
    let reader = thread::spawn(move || {
        // Make the command wait for its reader as well.
        thread::sleep(Duration::from_millis(200));
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).unwrap();
        output.len()
    });
    assert_eq!(status(&mut child), 0);
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), COUNT);
}

/// A command with a terminal, run at a terminal.
struct Session {
    caller: File,
    child: Child,
}

impl Session {
    fn start(script: &str) -> Option<Self> {
        let mut command = enter(TERMINAL, &format!("echo up; {script}"))?;
        let terminal = openpty(None, None).unwrap();
        command.stdin(terminal.slave.try_clone().unwrap());
        command.stdout(terminal.slave);
        let mut caller = File::from(terminal.master);
        let child = command.spawn().unwrap();
        let mut greeting = [0; 4];
        caller.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"up\r\n");
        let session = Self { caller, child };
        session.until_raw();
        Some(session)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn is_raw(&self) -> bool {
        let mode = tcgetattr(self.caller.as_fd()).unwrap();
        !mode.local_flags.contains(LocalFlags::ICANON)
    }

    fn until_raw(&self) {
        let end = Instant::now() + Duration::from_secs(5);
        while !self.is_raw() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn keys_reach_the_command() {
    let Some(mut session) = Session::start("read word; test \"$word\" = hello") else {
        return;
    };
    session.caller.write_all(b"hello\r").unwrap();
    assert_eq!(status(&mut session.child), 0);
    assert!(!session.is_raw());

    let mut session = Session::start("exec sleep 20").unwrap();
    // Control-C.
    session.caller.write_all(b"\x03").unwrap();
    assert_eq!(status(&mut session.child), 130);
    assert!(!session.is_raw());
}

#[test]
fn signals_are_passed_on_and_the_terminal_is_left_as_it_was() {
    for (signal, expected) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let Some(mut session) = Session::start("exec sleep 20") else {
            return;
        };
        kill(session.pid(), signal).unwrap();
        assert_eq!(status(&mut session.child), expected);
        assert!(!session.is_raw());
    }
}

#[test]
fn a_stop_gives_the_terminal_back_for_its_time() {
    let Some(mut session) = Session::start("read word; exit 5") else {
        return;
    };
    let pid = session.pid();
    kill(pid, Signal::SIGTSTP).unwrap();
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    assert!(!session.is_raw());
    kill(pid, Signal::SIGCONT).unwrap();
    session.until_raw();
    session.caller.write_all(b"word\r").unwrap();
    assert_eq!(status(&mut session.child), 5);
    assert!(!session.is_raw());
}
