//! A command's exit status and signals, and messages about them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_harness::host;

use crate::support::{Test, eventually};

cases! {
    every:
        the_status_is_the_commands,
        a_signal_gives_the_status_of_a_shell,
        commands_that_cannot_run_have_their_own_status,
        other_processes_do_not_change_the_status,
        signals_reach_the_command,
        a_signal_without_a_handler_ends_it,
        an_ignored_signal_is_not_an_end,
        a_command_can_be_stopped_and_continued,
        a_command_can_have_a_time_out,
        version_and_help_are_printed;
}

chosen! {
    session Session: the_status_is_the_commands;
}

fn the_status_is_the_commands(test: &Test) {
    for status in [0, 1, 42, 125, 255] {
        let done = test.run(&[], &format!("exit {status}"));
        assert_eq!((done.code, done.stderr.as_str()), (status, ""));
    }
}

fn a_signal_gives_the_status_of_a_shell(test: &Test) {
    for signal in [1, 2, 6, 9, 11, 15] {
        let done = test.run(&[], &format!("kill -{signal} $$"));
        assert_eq!((done.code, done.stderr.as_str()), (128 + signal, ""));
    }
}

fn commands_that_cannot_run_have_their_own_status(test: &Test) {
    let text = test.file("text", "no program\n");
    for (command, code, why) in [
        (
            "no-such-program",
            127,
            "running 'no-such-program': No such file or directory",
        ),
        (
            "/no/such/program",
            127,
            "running '/no/such/program': No such file or directory",
        ),
        ("/etc", 126, "running '/etc': Permission denied"),
        (&text, 126, "Permission denied"),
    ] {
        let mut program = test.command();
        program.args(["--", command]);
        let done = host::finish(program, b"").unwrap();
        assert_eq!(done.code, code, "{command}: {done:?}");
        assert!(
            done.stderr.ends_with(&format!("{why}\n")),
            "{command}: {done:?}"
        );
        assert_eq!(done.stderr.lines().count(), 1, "{command}: {done:?}");
    }
}

fn other_processes_do_not_change_the_status(test: &Test) {
    // Orphans are children of PID 1, like the command.
    let script =
        "for n in 1 2 3; do (sh -c 'exit 9' &); (sh -c 'kill -9 $$' &); done; sleep 0.3; exit 5";
    assert_eq!(test.run(&[], script).code, 5);
}

/// Starts a script and waits until it prints that it is ready.
fn ready(test: &Test, options: &[&str], script: &str) -> (Child, impl BufRead) {
    let mut command = test.shell(options, script);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, output)
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

const SIGNALS: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

fn signals_reach_the_command(test: &Test) {
    let traps = "for s in INT TERM HUP QUIT USR1 USR2; do trap \"echo SIG$s; exit 7\" $s; done";
    for signal in SIGNALS {
        let script = format!("{traps}; echo ready; while :; do sleep 0.05; done");
        let (mut child, mut output) = ready(test, &[], &script);
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(7), "{signal}");
        let mut rest = String::new();
        output.read_line(&mut rest).unwrap();
        assert_eq!(rest.trim_end(), signal.as_str());
    }
}

fn a_signal_without_a_handler_ends_it(test: &Test) {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        let (mut child, _) = ready(test, &[], "echo ready; exec sleep 86400");
        send(&child, signal);
        let code = Some(128 + signal as i32);
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
    }
}

fn an_ignored_signal_is_not_an_end(test: &Test) {
    let script = "trap '' TERM; trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done";
    let (mut child, _) = ready(test, &[], script);
    send(&child, Signal::SIGTERM);
    send(&child, Signal::SIGUSR1);
    assert_eq!(child.wait().unwrap().code(), Some(8));
}

fn a_command_can_be_stopped_and_continued(test: &Test) {
    let counter = test.file("counter", "");
    let mount = format!("host-bind:/mnt={}", test.directory().display());
    let script =
        "trap 'exit 9' TERM; echo ready; while :; do echo >>/mnt/counter; sleep 0.02; done";
    let (mut child, _) = ready(test, &["-p", "-m", &mount], script);
    let count = || fs::metadata(&counter).unwrap().len();
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    let grows = || {
        let before = count();
        sleep(Duration::from_millis(300));
        count() > before
    };
    eventually("it counts", grows);
    send(&child, Signal::SIGTSTP);
    eventually("the program stops", || state() == 'T');
    eventually("the command stops", || !grows());
    send(&child, Signal::SIGCONT);
    eventually("the command continues", grows);
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

fn a_command_can_have_a_time_out(test: &Test) {
    let done = test.run(&["--timeout", "0.3"], "echo out; sleep 86400");
    assert_eq!((done.code, done.stdout.as_str()), (124, "out\n"));
    assert_eq!(done.stderr, "virt-sandbox: the command took too long\n");
    assert_eq!(test.run(&["--timeout", "60"], "exit 3").code, 3);
}

fn version_and_help_are_printed(test: &Test) {
    for (option, text) in [
        ("--version", "virt-sandbox "),
        ("-V", "virt-sandbox "),
        ("--help", "Usage: "),
    ] {
        let mut command = test.unnamed();
        command.arg(option);
        let done = host::finish(command, b"").unwrap();
        assert!(
            done.code == 0 && done.stdout.contains(text) && done.stderr.is_empty(),
            "{done:?}"
        );
    }
    // Without --name, a sandbox gets a unique name.
    let mut command = test.unnamed();
    command.args(["--", "hostname"]);
    let done = host::finish(command, b"").unwrap();
    assert!(done.stdout.starts_with("sandbox-"), "{done:?}");
}
