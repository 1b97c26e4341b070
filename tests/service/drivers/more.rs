//! More rows of the table.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;

use super::{Cell, DRIVERS, Driver};
use crate::support::{
    HostFile, eventually, finish, get, in_tree, inside, listed, ok, program, run, send,
    service_program,
};

pub fn edit(cell: &Cell) {
    let edited = |script: &str| {
        let mut command = program();
        command.args(["edit", &cell.name]).env("VISUAL", script);
        finish(command, "")
    };
    assert_eq!(edited("sed -i 's/^timeout.*/timeout = 777/'").code, 0);
    assert!(ok(&["inspect", "--format", "json", &cell.name]).contains("\"timeout\": 777"));
    assert_eq!(edited("sed -i 's/^timeout.*/timeout = soon/'").code, 1);
    assert!(ok(&["inspect", "--format", "json", &cell.name]).contains("\"timeout\": 777"));
}

pub fn enable(cell: &Cell) {
    let is_enabled =
        || ok(&["status", "--format", "json", &cell.name]).contains("\"enabled\": true");
    ok(&["enable", &cell.name]);
    assert!(is_enabled());
    ok(&["disable", &cell.name]);
    assert!(!is_enabled());
}

/// A running sandbox is left as it is, and an interrupted freeze is ended.
pub fn repair(cell: &Cell) {
    assert_eq!(ok(&["repair", &cell.name]), "nothing to repair\n");
    let journal = PathBuf::from("/etc/libvirt-sandbox/services").join(&cell.name);
    let journal = journal.join("journal.json");
    std::fs::write(&journal, r#"["freeze"]"#).unwrap();
    let planned = run(&["repair", "--dry-run", "--format", "json", &cell.name]);
    assert!(
        planned.code == 1 && planned.stdout.contains("\"planned\""),
        "{planned:?}"
    );
    assert!(journal.exists());
    assert!(ok(&["repair", &cell.name]).contains("let it run on"));
    assert!(!journal.exists());
}

/// Published ports are answered while the sandbox runs.
pub fn published(cell: &Cell) {
    let url = format!("http://127.0.0.1:{}/", cell.port);
    assert!(get(&url).stdout.contains("<html"), "{:?}", get(&url));
    assert_eq!(
        listed(&cell.name).unwrap()["publish"][0],
        format!("{}:80", cell.port)
    );
    // A server that listens on the loopback alone is reached, too.
    let answer = "python3 -m http.server --bind 127.0.0.1 --directory /var/www 8081";
    let inner = format!("http://127.0.0.1:{}/", cell.inner_port);
    // A guest that was short of memory reads the program from the host again.
    let listens = "until ss -ltn | grep -q 127.0.0.1:8081; do sleep 0.2; done";
    cell.says(&format!("setsid {answer} >/dev/null 2>&1 & {listens}"));
    eventually("it answers", || get(&inner).stdout.contains("<html"));
    cell.says("pkill -f http.serve[r]");
}

/// Streams of a command: binary data, long data, early ends, and signals.
pub fn streams(cell: &Cell) {
    let bytes: Vec<u8> = (0..8_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut command = program();
    command.args(["execute", &cell.name, "--", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    let mut said = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
    writer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(said == bytes, "{} of {}", said.len(), bytes.len());

    // A command that does not read all its input, and a reader that closes early.
    let mut command = program();
    command.args(["execute", &cell.name, "--", "head", "-c", "3"]);
    let done = finish(command, &"abc".repeat(1_000_000));
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "abc"),
        "{:?}",
        done.stderr
    );
    let done = inside(&cell.name, "exec >&-; sleep 0.2; echo err >&2; exit 6");
    assert_eq!((done.code, done.stderr.as_str()), (6, "err\n"));

    for code in [0, 1, 124, 128, 255] {
        let done = inside(&cell.name, &format!("exit {code}"));
        assert_eq!(done.code, code);
    }
    let mut command = program();
    let script = "trap 'echo told; exit 42' TERM; echo ready; while :; do sleep 0.1; done";
    command.args(["execute", &cell.name, "--", "sh", "-c", script]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    send(&child, Signal::SIGTERM);
    assert_eq!(lines.next().unwrap().unwrap(), "told");
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

/// Twenty commands at once, more than a machine has channels: the later ones wait.
pub fn twenty(cell: &Cell) {
    let children: Vec<_> = (0..20).map(|_| cell.started("sleep 1; exit 3")).collect();
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}

pub fn restart(cell: &Cell) {
    let run_of = || cell.says("systemctl show -P InvocationID apache2");
    let before = run_of();
    ok(&["restart", &cell.name]);
    assert_ne!(run_of(), before);
    assert_eq!(cell.state(), "running");
}

pub fn follow(cell: &Cell) {
    let mut command = program();
    command.args(["logs", "-f", "-n", "0", "-o", "cat", &cell.name]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let waiting = thread::spawn(move || lines.any(|line| line.unwrap().contains("followed-word")));
    eventually("it is shown", || {
        cell.says("logger -t t-mark followed-word");
        thread::sleep(std::time::Duration::from_millis(300));
        waiting.is_finished()
    });
    assert!(waiting.join().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    let logs = |arguments: &[&str]| ok(&[&["logs"], arguments, &[&cell.name]].concat());
    assert!(logs(&["--since", "-1h", "--until", "+1h"]).contains("followed-word"));
    assert!(!logs(&["--until", "yesterday"]).contains("followed-word"));
    assert!(logs(&["-b", "-r", "-o", "json"]).starts_with('{'));
}

pub fn top(cell: &Cell) {
    let table = ok(&["top", "-b", "-n", "2", "-d", "0.2", &cell.name]);
    assert_eq!(table.matches(&cell.name).count(), 2, "{table}");
}

pub fn security(cell: &Cell) {
    let said = ok(&["security", &cell.name]);
    assert!(said.contains("overall exposure"), "{said}");
    assert!(ok(&["security"]).contains(&cell.name));
}

pub fn rotate(cell: &Cell) {
    cell.says(
        "mkdir -p /etc/logrotate.d; printf '/var/log/t-rot.log {\\n rotate 2\\n}\\n' >/etc/logrotate.d/t-rot; \
         echo line >/var/log/t-rot.log",
    );
    let done = run(&["rotate", "--force", &cell.name]);
    assert!(done.code == 0 && done.stderr.is_empty(), "{done:?}");
    assert!(in_tree(&cell.name, "var/log/t-rot.log.1").exists());
}

/// Limits that change at run time, as the guest's kernel sees them.
pub fn set_live(cell: &Cell) {
    if cell.driver == Driver::Containers {
        return;
    }
    let set = |change: &str| run(&["set", &cell.name, change]);
    let memory = || {
        cell.says("awk '/MemTotal/ {print $2}' /proc/meminfo")
            .parse::<u64>()
            .unwrap()
    };
    let before = memory();
    let done = set("memory=700M");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert!(memory() < before - 200_000, "{} {before}", memory());
    assert_eq!(set("memory=1G").stderr, "");
    assert!(memory() + 20_000 > before, "{} {before}", memory());
    let done = set("memory=1500M");
    assert!(done.stderr.contains("memory"), "{done:?}");
    // The guest gives back only memory that it does not need, and gets it back later.
    cell.says("head -c 400M /dev/zero >/dev/shm/t-full");
    let done = set("memory=300M");
    assert!(done.stderr.contains("does not do with less"), "{done:?}");
    eventually("it has its memory back", || memory() + 20_000 > before);
    cell.says("rm /dev/shm/t-full");
    assert_eq!(set("memory=1G").stderr, "");

    let cpus = || cell.says("nproc");
    assert_eq!(cpus(), "1");
    let done = set("cpus=2");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(cpus(), "2");
    let done = set("cpus=1");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(cpus(), "1");
    let done = set("cpus=4000");
    assert!(done.code == 0 && done.stderr.contains("cpus"), "{done:?}");
    ok(&["set", &cell.name, "cpus="]);
    assert!(cell.answers());
}

/// Upgrades: a good change of the host while the sandbox is stopped, and a bad one while it runs.
pub fn upgrade(cell: &Cell) {
    let good = HostFile::new("/etc/apache2/conf-available/t-good.conf", "# good\n");
    let tree = |path: &str| in_tree(&cell.name, path);
    ok(&["upgrade", &cell.name]);
    assert!(tree("etc/apache2/conf-available/t-good.conf").exists());
    ok(&["start", &cell.name]);
    let bad = HostFile::new("/etc/apache2/conf-enabled/t-bad.conf", "Nonsense here\n");
    let done = run(&["upgrade", "--restart", &cell.name]);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(!tree("etc/apache2/conf-enabled/t-bad.conf").exists());
    assert_eq!(cell.state(), "running", "{done:?}");
    assert!(cell.answers());
    drop(bad);
    // A second upgrade finds nothing new.
    let run_of = || cell.says("systemctl show -P InvocationID apache2");
    let before = run_of();
    ok(&["upgrade", "--restart", &cell.name]);
    assert_eq!(run_of(), before);
    ok(&["stop", &cell.name]);
    drop(good);
    ok(&["upgrade", &cell.name]);
    assert!(!tree("etc/apache2/conf-available/t-good.conf").exists());
}

/// Runs a command line at a terminal, as script(1) makes one.
fn at_terminal(line: &str) -> String {
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}

pub fn terminal(cell: &Cell) {
    let program = service_program();
    let program = program.display();
    let script = "tty; stty size; echo $TERM; exit 9";
    let line = format!(
        "stty rows 33 cols 111; TERM=vt100 {program} execute -t {} -- sh -c '{script}'; echo $?",
        cell.name
    );
    let said = at_terminal(&line);
    assert!(said.contains("/dev/pts/"), "{said}");
    assert!(said.contains("33 111\nvt100\n9\n"), "{said}");
}

pub fn archive(cell: &Cell) {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("archive.tar");
    let file = file.to_str().unwrap();
    ok(&["export", &cell.name, "-o", file]);
    let copy = cell.other("i");
    ok(&["-c", &cell.driver.uri(), "import", file, &copy]);
    let one = listed(&copy).unwrap();
    assert_eq!(
        (&one["driver"], &one["state"]),
        (&cell.driver.name().into(), &"stopped".into())
    );
    assert!(in_tree(&copy, "var/lib/t-data").exists());
    // A sandbox made with one driver can be started with the other.
    ok(&["delete", &copy]);
    let other = DRIVERS
        .into_iter()
        .find(|driver| *driver != cell.driver)
        .unwrap();
    ok(&["-c", &other.uri(), "import", file, &copy]);
    assert_eq!(listed(&copy).unwrap()["driver"], other.name());
    ok(&["delete", &copy]);
}

pub fn run_verb(cell: &Cell) {
    let mut child = program().args(["run", &cell.name]).spawn().unwrap();
    let begin = std::time::Instant::now();
    while cell.state() != "running" || !get_quietly(cell) {
        assert!(begin.elapsed().as_secs() < 300, "it does not come up");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(cell.state(), "stopped");
}

fn get_quietly(cell: &Cell) -> bool {
    let addresses = listed(&cell.name).unwrap()["addresses"].clone();
    let first = addresses.as_array().and_then(|all| all.first().cloned());
    first.is_some_and(|address| {
        let url = format!("http://{}/", address.as_str().unwrap());
        get(&url).stdout.contains("<html")
    })
}
