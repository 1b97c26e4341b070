//! Commands that the host runs in a container, and what they inherit. Root inside makes every program that is started there
//! load a hostile library, which records the namespaces and ids it was loaded with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::{HostFile, TREES, Test, finish, inside, ok, program, run, service_program};
use crate::unit;

/// Library that logs the namespaces and ids of each process that loads it, and whether that process has a terminal.
const LIBRARY: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void whose(const char *name, char *to, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    ssize_t length = readlink(path, to, size - 1);
    to[length < 0 ? 0 : length] = 0;
    if (length < 0) strcpy(to, "outside");
}
__attribute__((constructor)) static void loaded(void) {
    char user[64], mnt[64], pid[64], net[64], map[128] = "", name[64] = "", line[1024];
    int file = open("/proc/self/uid_map", O_RDONLY);
    if (file >= 0) { ssize_t n = read(file, map, sizeof map - 1); map[n < 0 ? 0 : n] = 0; close(file); }
    for (char *at = map; *at; at++) if (*at == '\n' || *at == ' ') *at = '_';
    file = open("/proc/self/comm", O_RDONLY);
    if (file >= 0) { ssize_t n = read(file, name, sizeof name - 1); name[n < 1 ? 0 : n - 1] = 0; close(file); }
    whose("user", user, sizeof user); whose("mnt", mnt, sizeof mnt);
    whose("pid", pid, sizeof pid); whose("net", net, sizeof net);
    int terminal = open("/dev/tty", O_RDWR | O_NOCTTY);
    if (terminal >= 0) { dprintf(terminal, "[from the sandbox]\n"); close(terminal); }
    int length = snprintf(line, sizeof line, "%s %s %s %s %s map=%s tty=%d\n",
                          name, user, mnt, pid, net, map, terminal >= 0);
    file = open("/srv/loaded", O_WRONLY | O_APPEND);
    if (file >= 0) { if (write(file, line, length)) {} close(file); }
}
"#;

const NAME: &str = "t-esc";

/// Creates a sandbox, not started, in which every program loads the library.
fn create(idmap: &str) -> HostFile {
    let unit = unit();
    let create = ["create", "-N", "none", "--pids", "200", "--idmap", idmap];
    ok(&[&create[..], &["-u", "t-esc.service", NAME]].concat());
    let tree = Path::new(TREES).join(NAME);
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-x", "c", "-", "-o"]);
    let library = tree.join("srv/evil.so");
    let done = finish(
        {
            compiler.arg(&library);
            compiler
        },
        LIBRARY,
    );
    assert_eq!(done.code, 0, "{done:?}");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o755)).unwrap();
    let record = tree.join("srv/loaded");
    fs::write(&record, "").unwrap();
    fs::set_permissions(&record, fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(tree.join("etc/ld.so.preload"), "/srv/evil.so\n").unwrap();
    unit
}

fn records() -> Vec<String> {
    let path = Path::new(TREES).join(NAME).join("srv/loaded");
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Fails if the library was ever loaded in a namespace of the host or as the host's root.
fn judge(idmap: &str) {
    let host = |name: &str| {
        let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let mut hosts = vec!["outside".to_owned(), host("mnt"), host("pid"), host("net")];
    if idmap == "auto" {
        hosts.extend([host("user"), "map=_________0__________0_".to_owned()]);
    }
    let records = records();
    assert!(records.len() > 10, "nothing was loaded: {records:?}");
    let out: BTreeSet<&String> = (records.iter())
        .filter(|line| hosts.iter().any(|of_host| line.contains(of_host.as_str())))
        .collect();
    assert!(out.is_empty(), "{out:#?}");
    let commands =
        ["systemctl", "sh"].map(|name| records.iter().any(|line| line.starts_with(name)));
    assert_eq!(
        commands, [true; 2],
        "the verbs ran nothing there: {records:#?}"
    );
}

/// Starts and stops the sandbox repeatedly, while the host queries it and runs commands in it without a pause.
fn restart_under_load(idmap: &str, rounds: usize) {
    let unit = create(idmap);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for words in [
            &["execute", NAME, "--", "sh", "-c", "exec true"][..],
            &["status", NAME],
            &["list"],
        ] {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let done = run(words);
                    if words == ["list"] {
                        assert!(done.code == 0 && done.stderr.is_empty(), "{done:?}");
                    }
                }
            });
        }
        for round in 0..rounds {
            let started = run(&["start", NAME]);
            let stopped = run(&["stop", NAME]);
            if (started.code, stopped.code) != (0, 0) {
                over.store(true, Ordering::Relaxed);
                panic!("{round}: {started:?} {stopped:?}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    judge(idmap);
    println!(
        "{} loads in {rounds} rounds, --idmap {idmap}",
        records().len()
    );
    ok(&["delete", "--force", NAME]);
    drop(unit);
}

#[test]
fn libraries_of_a_sandbox_are_never_loaded_outside() {
    let Some(test) = Test::begin("libraries_of_a_sandbox_are_never_loaded_outside") else {
        return;
    };
    restart_under_load("auto", 4);
    restart_under_load("no", 2);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn libraries_of_a_sandbox_are_never_loaded_outside_in_many_boots() {
    let Some(test) = Test::begin("libraries_of_a_sandbox_are_never_loaded_outside_in_many_boots")
    else {
        return;
    };
    restart_under_load("auto", 150);
    restart_under_load("no", 50);
    test.end();
}

#[test]
fn no_verb_passes_on_the_callers_terminal() {
    let Some(test) = Test::begin("no_verb_passes_on_the_callers_terminal") else {
        return;
    };
    let unit = create("auto");
    let binary = service_program();
    let binary = binary.display();
    let none = "</dev/null >/dev/null 2>&1";
    let try_it = "sh -c '(: <>/dev/tty) 2>/dev/null && echo REACHED >>/srv/tty'";
    let mut script = String::new();
    for verb in ["start", "status", "reload", "rotate", "logs", "top"] {
        script += &format!("timeout 60 {binary} {verb} {NAME} {none}\n");
    }
    for how in [
        none,
        "",
        "| cat",
        "2>/dev/null | cat",
        "</dev/null",
        ">/dev/null",
    ] {
        script += &format!("{binary} execute -T {NAME} -- {try_it} {how}\n");
    }
    script += &format!("{binary} execute {NAME} -- {try_it} | cat\n{binary} stop {NAME} {none}\n");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script");
    fs::write(&path, script).unwrap();
    let mut session = Command::new("script");
    session.args(["-qec", &format!("sh {}", path.display()), "/dev/null"]);
    let done = finish(session, "");
    assert!(!done.stdout.contains("[from the sandbox]"), "{done:?}");
    let records = records();
    let with: Vec<&String> = records
        .iter()
        .filter(|line| line.contains("tty=1"))
        .collect();
    assert!(with.is_empty(), "{with:#?}");
    judge("auto");
    assert!(!Path::new(TREES).join(NAME).join("srv/tty").exists());
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}

/// Returns the commands that run a program with the caller's streams.
fn stream_commands() -> Vec<(&'static str, Command)> {
    let mut execute = program();
    execute.args(["execute", NAME, "--"]);
    let one_shot = |options: &[&str]| {
        let mut command = Command::new(crate::command_program());
        command.args(["--pids", "50"]).args(options).arg("--");
        command
    };
    vec![
        ("execute", execute),
        ("a command", one_shot(&[])),
        ("a privileged command", one_shot(&["-p"])),
    ]
}

#[test]
fn a_command_gets_only_pipes_of_its_caller() {
    let Some(test) = Test::begin("a_command_gets_only_pipes_of_its_caller") else {
        return;
    };
    let unit = unit();
    ok(&[
        "create",
        "-N",
        "none",
        "-u",
        "t-esc.service",
        "--start",
        NAME,
    ]);
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let host = UnixListener::bind(dir.path().join("socket")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (way, mut command) in stream_commands() {
        let script = "stat -L -c 'id %d:%i' /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; \
                      cd /proc/self/fd/0 && echo ENTERED; \
                      python3 -c 'import socket; socket.socket(fileno=0)' && echo SOCKET; exit 0";
        command.args(["sh", "-c", script]);
        let terminal = nix::pty::openpty(None, None).unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        let open = File::options().read(true).write(true).open(&fifo).unwrap();
        let inputs: Vec<(&str, OwnedFd)> = vec![
            ("a terminal", terminal.slave),
            ("a file", File::open("/etc/passwd").unwrap().into()),
            ("a directory", File::open("/").unwrap().into()),
            ("a device", File::open("/dev/null").unwrap().into()),
            ("a FIFO", open.into()),
            ("TCP", TcpStream::connect(address).unwrap().into()),
            ("TCP that listens", listener.try_clone().unwrap().into()),
            ("Unix", unix.into()),
            ("Unix that listens", host.try_clone().unwrap().into()),
            ("Unix datagrams", datagram.into()),
        ];
        for (what, input) in inputs {
            let input = File::from(input);
            let mut log = tempfile::tempfile().unwrap();
            let files = [&input, &log].map(|file| {
                let metadata = file.metadata().unwrap();
                format!("id {}:{}", metadata.dev(), metadata.ino())
            });
            command.stdin(input).stdout(log.try_clone().unwrap());
            let status = command.stderr(log.try_clone().unwrap()).status().unwrap();
            let mut said = String::new();
            log.rewind().unwrap();
            log.read_to_string(&mut said).unwrap();
            assert!(status.success(), "{way}: {what}: {said}");
            assert_eq!(said.matches("id ").count(), 3, "{way}: {what}: {said}");
            for sign in files
                .iter()
                .map(String::as_str)
                .chain(["ENTERED", "SOCKET"])
            {
                assert!(!said.contains(sign), "{way}: {what}: {sign}: {said}");
            }
        }
    }
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}

#[test]
fn a_command_can_only_append_to_a_log_of_the_host() {
    let Some(test) = Test::begin("a_command_can_only_append_to_a_log_of_the_host") else {
        return;
    };
    let unit = unit();
    ok(&[
        "create",
        "-N",
        "none",
        "-u",
        "t-esc.service",
        "--start",
        NAME,
    ]);
    let attack = "import fcntl, os\n\
                  def attempt(what):\n    try: what()\n    except OSError: pass\n\
                  attempt(lambda: fcntl.fcntl(1, fcntl.F_SETFL, 0))\n\
                  attempt(lambda: os.pwrite(1, b'FORGED', 0))\n\
                  attempt(lambda: os.lseek(1, 0, 0))\n\
                  attempt(lambda: os.ftruncate(1, 0))\n\
                  attempt(lambda: os.fchmod(1, 0o666))\n\
                  attempt(lambda: os.pwrite(os.open('/proc/self/fd/1', os.O_RDWR), b'FORGED', 0))\n\
                  os.write(1, b'appended\\n')\n";
    for (way, mut command) in stream_commands() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        log.write_all(b"important history\n").unwrap();
        let append = File::options().append(true).open(log.path()).unwrap();
        command.args(["python3", "-c", attack]).stdin(Stdio::null());
        assert!(command.stdout(append).status().unwrap().success(), "{way}");
        let text = fs::read_to_string(log.path()).unwrap();
        // Writes to the relay's pipe may be in the file as well.
        assert!(text.starts_with("important history\n"), "{way}: {text:?}");
        assert!(text.ends_with("appended\n"), "{way}: {text:?}");
        assert_eq!(
            log.as_file().metadata().unwrap().mode() & 0o777,
            0o600,
            "{way}"
        );
    }
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}

#[test]
fn a_command_gets_each_pipe_in_one_direction() {
    let Some(test) = Test::begin("a_command_gets_each_pipe_in_one_direction") else {
        return;
    };
    let unit = unit();
    ok(&[
        "create",
        "-N",
        "none",
        "-u",
        "t-esc.service",
        "--start",
        NAME,
    ]);
    // A shell loop on the host reads the rest of the pipe next.
    let script = "chmod 666 /proc/self/fd/0; echo INJECTED >/proc/self/fd/0; \
                  python3 -c 'import fcntl, os; fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)'; read line";
    let binary = service_program();
    let binary = binary.display();
    let mut shell = Command::new("sh");
    let line = format!("{binary} execute {NAME} -- sh -c \"$0\"; sleep 1; cat");
    shell.args([
        "-c",
        &format!("(echo one; echo two; sleep 3; echo three) | ({line})"),
    ]);
    shell.arg(script);
    let done = finish(shell, "");
    assert!(!done.stdout.contains("INJECTED"), "{done:?}");
    assert_eq!(done.stdout, "two\nthree\n", "{done:?}");
    assert_eq!(inside(NAME, "cat /dev/stdin >/dev/stdout").code, 0);
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}
