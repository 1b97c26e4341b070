//! Commands at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use guest_init::stdio::terminal::set_window_size;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::support::{Test, eventually};

cases! {
    every:
        the_terminal_is_the_commands,
        keys_are_signals,
        an_inner_shell_controls_its_jobs,
        the_size_follows_the_window,
        the_kind_of_terminal_is_known,
        a_key_ends_the_sandbox,
        another_key_ends_the_sandbox,
        no_key_ends_the_sandbox,
        the_terminal_is_restored,
        a_terminal_can_be_forbidden,
        output_elsewhere_means_no_terminal,
        a_terminal_can_be_forced;
}

/// A terminal with the program running on it.
struct Session {
    child: Child,
    keys: File,
    screen: Arc<Mutex<Vec<u8>>>,
    slave: File,
    before: Termios,
}

impl Session {
    /// Runs the program on a terminal of 30 lines and 100 columns.
    fn new(command: &Command) -> Self {
        let pty = openpty(None, None).unwrap();
        set_window_size(pty.master.as_fd(), 30, 100).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let slave = File::from(pty.slave);
        let end = || Stdio::from(slave.try_clone().unwrap());
        // A child of ours leads no process group, so setsid does not fork.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program());
        session.args(command.get_args()).env("TERM", "vt220");
        session.envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        session.stdin(end()).stdout(end()).stderr(end());
        let child = session.spawn().unwrap();
        let keys = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut seen, shown) = (keys.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = seen.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            child,
            keys,
            screen,
            slave,
            before,
        }
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until `text` is on the screen.
    fn expect(&self, text: &str) {
        eventually(
            &format!("{text:?} appears, after {:?}", self.screen()),
            || self.screen().contains(text),
        );
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end, and returns the status and the whole screen.
    fn end(mut self) -> (i32, String) {
        let status = self.child.wait().unwrap();
        assert_eq!(
            tcgetattr(&self.slave).unwrap(),
            self.before,
            "the terminal is as before"
        );
        // Everything written before the mark is read before it.
        write!(self.slave, "\u{1}").unwrap();
        self.expect("\u{1}");
        (
            status.code().unwrap_or(-1),
            self.screen().replace('\u{1}', ""),
        )
    }
}

fn at_terminal(test: &Test, options: &[&str], script: &str) -> Session {
    Session::new(&test.shell(options, script))
}

fn the_terminal_is_the_commands(test: &Test) {
    let script = "tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; ps -o tpgid= -p $$ | tr -d ' '; echo $$; \
                  echo err >&2; : >/dev/tty; stat -c %U $(tty)";
    let (code, screen) = at_terminal(test, &[], script).end();
    let lines: Vec<&str> = screen.split("\r\n").collect();
    assert_eq!(code, 0, "{lines:?}");
    assert!(lines[0].starts_with("/dev/pts/"), "{lines:?}");
    assert_eq!(lines[2], lines[3], "its group is in the foreground");
    assert_eq!(
        (lines[1], &lines[4..]),
        ("all", &["err", "root", ""][..]),
        "{lines:?}"
    );
}

fn keys_are_signals(test: &Test) {
    for (key, name, code) in [("\u{3}", "INT", 130), ("\u{1c}", "QUIT", 131)] {
        let script = format!(
            "trap 'echo SIG{name}; exit {code}' {name}; echo ready; while :; do sleep 0.05; done"
        );
        let mut session = at_terminal(test, &[], &script);
        session.expect("ready");
        session.type_in(key);
        let (ended, screen) = session.end();
        assert!(
            ended == code && screen.contains(&format!("SIG{name}")),
            "{ended} {screen}"
        );
    }
    // The end of input.
    let mut session = at_terminal(test, &[], "cat; echo end");
    session.type_in("line\r");
    session.expect("line\r\nline\r\n");
    session.type_in("\u{4}");
    let (code, screen) = session.end();
    assert!(code == 0 && screen.ends_with("end\r\n"), "{screen}");
}

fn an_inner_shell_controls_its_jobs(test: &Test) {
    let mut session = at_terminal(test, &["-e", "PS1=ready> "], "exec bash --norc -i");
    session.expect("ready> ");
    assert!(
        !session.screen().contains("no job control"),
        "{}",
        session.screen()
    );
    session.type_in("echo b''egin; sleep 86400\r");
    session.expect("begin");
    session.type_in("\u{1a}");
    session.expect("Stopped");
    session.type_in("kill %1; fg; echo status $?\r");
    session.expect("status 143");
    session.type_in("exit 5\r");
    assert_eq!(session.end().0, 5);
}

fn the_size_follows_the_window(test: &Test) {
    let script = "trap 'echo WINCH; stty size; exit 4' WINCH; stty size; echo ready; while :; do sleep 0.05; done";
    let session = at_terminal(test, &[], script);
    session.expect("30 100\r\nready");
    set_window_size(session.keys.as_fd(), 40, 120).unwrap();
    let (code, screen) = session.end();
    assert!(
        code == 4 && screen.ends_with("WINCH\r\n40 120\r\n"),
        "{code} {screen}"
    );
}

fn the_kind_of_terminal_is_known(test: &Test) {
    let (_, screen) = at_terminal(test, &[], "echo $TERM").end();
    assert_eq!(screen, "vt220\r\n");
    let mut command = test.shell(&[], "echo ${TERM-none}");
    let output = command.env("TERM", "vt220").output().unwrap();
    assert_eq!(output.stdout, b"none\n");
}

fn a_key_ends_the_sandbox(test: &Test) {
    let mut session = at_terminal(test, &[], "echo ready; exec sleep 86400");
    session.expect("ready");
    session.type_in("\u{1d}");
    let (status, said) = session.end();
    assert_eq!(status, 125);
    assert!(said.contains("escape key"), "{said}");
}

fn another_key_ends_the_sandbox(test: &Test) {
    let mut session = at_terminal(
        test,
        &["--escape", "a"],
        "stty raw -echo; echo ready; head -c 1 | od -An -tx1; sleep 86400",
    );
    session.expect("ready");
    session.type_in("\u{1d}");
    session.expect("1d");
    session.type_in("\u{1}");
    assert_eq!(session.end().0, 125);
}

fn no_key_ends_the_sandbox(test: &Test) {
    let mut session = at_terminal(
        test,
        &["--escape", "none"],
        "stty raw -echo; echo ready; head -c 1 | od -An -tx1",
    );
    session.expect("ready");
    session.type_in("\u{1d}");
    let (code, screen) = session.end();
    assert!(code == 0 && screen.contains("1d"), "{screen}");
}

fn the_terminal_is_restored(test: &Test) {
    // Session::end checks this for ordinary ends; this test covers the others.
    assert_eq!(at_terminal(test, &[], "stty raw -echo; exit 3").end().0, 3);
    assert_eq!(
        at_terminal(test, &["--timeout", "0.3"], "stty raw; sleep 86400")
            .end()
            .0,
        124
    );
    let session = at_terminal(test, &[], "stty raw; echo ready; exec sleep 86400");
    session.expect("ready");
    kill(
        Pid::from_raw(session.child.id().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(session.end().0, 143);
    let (code, screen) = Session::new(test.command().args(["--", "no-such-program"])).end();
    assert_eq!(code, 127);
    assert!(
        screen.ends_with("No such file or directory\r\n"),
        "{screen}"
    );
}

fn a_terminal_can_be_forbidden(test: &Test) {
    let (code, screen) = at_terminal(
        test,
        &["-T"],
        "[ -t 0 ] || [ -t 1 ] || echo none; head -n 1 </dev/null",
    )
    .end();
    assert_eq!((code, screen.as_str()), (0, "none\r\n"));
}

fn output_elsewhere_means_no_terminal(test: &Test) {
    let file = test.text("out");
    let script = format!("exec \"$@\" >'{file}'");
    let mut shell = Command::new("sh");
    let command = test.shell(&[], "date +%Y; echo err >&2");
    shell
        .args(["-c", &script, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.envs(
        command
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    let (code, screen) = Session::new(&shell).end();
    assert_eq!((code, screen.as_str()), (0, "err\r\n"));
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.len() == 5 && text.ends_with('\n'), "{text:?}");
}

fn a_terminal_can_be_forced(test: &Test) {
    let done = test.run_with_input(
        &["-t"],
        "tty >/dev/null && echo terminal; cat; exit 6",
        b"typed\nhalf",
    );
    assert_eq!(done.code, 6, "{done:?}");
    // The terminal echoes the typed text, too.
    let is_there = done.stdout.contains("terminal\r\n") && done.stdout.ends_with("typed\r\nhalf");
    assert!(is_there, "{done:?}");
    // Without input.
    let mut command = test.shell(&["-t"], "cat; stty size; exit 7");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(7), &b"24 80\r\n"[..])
    );
}
