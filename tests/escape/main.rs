//! Attempts to escape from a sandbox, made inside by the program `attacker` as each kind of user, and attacks on host-side
//! commands through a tree that the sandbox controls.
//!
//! The table of all attempts is printed. SECURITY.md names the attempts that a platform cannot stop.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod claims;
mod copying;
mod enter;
mod greed;
mod identities;
mod images;
mod inherited;
mod journals;
mod limits;
mod machine;
mod modes;
mod nested;
mod network;
mod one_file;
mod oneshot;
mod places;
mod private_files;
mod races;
mod read_only;
mod secrets;
#[path = "../service/support.rs"]
#[allow(dead_code)]
mod support;

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use support::{Done, HostFile, TREES, Test, finish, inside, ok, run, service_program};
use test_harness::programs;

const MARKER: &str = "t-escape-marker";
const SECRET: &str = "/root/t-escape-secret";

/// Targets on the host: a secret file, a process, and sockets.
struct Prey {
    _secret: HostFile,
    process: Child,
    loopback: TcpListener,
    _abstract: UnixListener,
    socket: String,
}

impl Prey {
    fn new() -> Self {
        let socket = format!("t-escape-{}", std::process::id());
        let name = SocketAddr::from_abstract_name(&socket).unwrap();
        Self {
            _secret: HostFile::new(SECRET, MARKER),
            process: Command::new("sleep").arg("1000").spawn().unwrap(),
            loopback: TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract: UnixListener::bind_addr(&name).unwrap(),
            socket,
        }
    }

    /// Returns the attacker's arguments.
    fn arguments(&self) -> Vec<String> {
        let port = self.loopback.local_addr().unwrap().port();
        let words = [
            MARKER,
            SECRET,
            &self.process.id().to_string(),
            &port.to_string(),
            &self.socket,
        ];
        words.map(ToOwned::to_owned).to_vec()
    }
}

impl Drop for Prey {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the path of `virt-sandbox`.
fn command_program() -> PathBuf {
    programs::stage(Path::new(env!("CARGO_BIN_EXE_virt-sandbox"))).unwrap()
}

/// Returns the path of the attacker, which is built with the harness.
fn attacker() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_virt-sandbox-service")).with_file_name("attacker");
    programs::stage(&built).expect("build it with 'cargo build -p test-harness'")
}

/// One line of the attacker's output: an attempt and its result.
struct Line {
    name: String,
    against: String,
    is_out: bool,
    detail: String,
}

/// Parses the attacker's output, which must have at least `least` attempts.
fn lines(done: &Done, least: usize) -> Vec<Line> {
    let lines: Vec<Line> = done
        .stdout
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.trim_end().split('\t').collect();
            let [name, against, verdict, detail] = fields.as_slice() else {
                return None;
            };
            Some(Line {
                name: (*name).to_owned(),
                against: (*against).to_owned(),
                is_out: *verdict == "escaped",
                detail: (*detail).to_owned(),
            })
        })
        .collect();
    assert!(lines.len() >= least, "{} attempts: {done:?}", lines.len());
    lines
}

/// The user that makes the attempts, and the results expected of it.
struct Attacker<'a> {
    name: &'a str,
    /// Classes of attempts that must be stopped.
    stopped: &'a [&'a str],
    /// Classes of attempts that reach only the sandbox itself, and what they reach.
    own: &'a [(&'a str, &'a str)],
}

/// Prints the table, and returns the attempts that escaped but should have been stopped.
fn judge(who: &Attacker<'_>, lines: &[Line]) -> Vec<String> {
    let mut escaped = Vec::new();
    println!("--- {}", who.name);
    let (mut stopped, mut own) = (0, 0);
    for Line {
        name,
        against,
        is_out,
        detail,
    } in lines
    {
        let itself = who.own.iter().find(|(label, _)| label == against);
        let verdict = match (is_out, itself) {
            (false, _) => {
                stopped += 1;
                format!("stopped  {name:<52} {detail}")
            }
            (true, Some((_, whose))) => {
                own += 1;
                format!("itself   {name:<52} {whose}: {detail}")
            }
            (true, None) => format!("ESCAPED  {name:<52} {detail}"),
        };
        println!("{verdict}");
        if *is_out && who.stopped.contains(&against.as_str()) {
            escaped.push(format!("{}: {name}: {detail}", who.name));
        }
    }
    // Not println!: the test harness captures that and shows it only on failure.
    let _ = writeln!(
        io::stderr(),
        "\n{}: {} attempts, {stopped} stopped, {own} reached itself alone, {} reached the host",
        who.name,
        lines.len(),
        lines.len() - stopped - own
    );
    escaped
}

fn unit() -> HostFile {
    HostFile::unit(
        "t-esc.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    )
}

fn place(name: &str) {
    let at = Path::new(TREES).join(name).join("srv/attacker");
    fs::copy(attacker(), &at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Returns a user in a container, where everything reached is the host's.
fn in_container<'a>(name: &'a str, stopped: &'a [&'a str]) -> Attacker<'a> {
    Attacker {
        name,
        stopped,
        own: &[],
    }
}

/// Least number of attempts of a container.
const ALL: usize = 60;

/// Runs the attacker as a unit of the sandbox, below its systemd.
fn attack(name: &str, user: &str, prey: &Prey) -> Done {
    let uid = format!("--uid={user}");
    let fixed = [
        "execute",
        name,
        "--",
        "systemd-run",
        "--quiet",
        "--wait",
        "--pipe",
        &uid,
        "/srv/attacker",
    ];
    let words = prey.arguments();
    let all: Vec<&str> = fixed
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .collect();
    run(&all)
}

/// Returns the state of the host that a sandbox must not change.
fn host_state() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let settings = [
        "kernel/core_pattern",
        "kernel/modprobe",
        "kernel/hostname",
        "kernel/sysrq",
    ];
    let settings = settings.map(|name| read(&format!("/proc/sys/{name}")));
    let made = Path::new("/usr/t-attack").exists();
    settings.into_iter().chain([made.to_string()]).collect()
}

#[test]
fn no_user_escapes_from_a_service() {
    let Some(test) = Test::begin("no_user_escapes_from_a_service") else {
        return;
    };
    let (unit, prey, before) = (unit(), Prey::new(), host_state());
    let mut escaped = Vec::new();
    for (idmap, stopped) in [
        ("auto", &["all", "kernel", "ids", "root"][..]),
        ("no", &["all", "kernel", "root"]),
    ] {
        let create = ["create", "-N", "none", "--pids", "200", "--idmap", idmap];
        ok(&[&create[..], &["-u", "t-esc.service", "t-esc"]].concat());
        place("t-esc");
        ok(&["start", "t-esc"]);
        for user in ["root", "nobody"] {
            let who = format!("{user} of a service, --idmap {idmap}");
            let done = attack("t-esc", user, &prey);
            escaped.extend(judge(&in_container(&who, stopped), &lines(&done, ALL)));
        }
        let words = prey.arguments();
        let fixed = ["execute", "t-esc", "--", "/srv/attacker"];
        let all: Vec<&str> = fixed
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .collect();
        let who = format!("root executed, --idmap {idmap}");
        let lines = lines(&run(&all), ALL);
        escaped.extend(judge(&in_container(&who, stopped), &lines));
        assert_eq!(
            inside("t-esc", "systemctl is-active t-esc").stdout.trim(),
            "active"
        );
        ok(&["delete", "--force", "t-esc"]);
    }
    assert_eq!(host_state(), before);
    assert!(escaped.is_empty(), "{escaped:#?}");
    drop((unit, prey));
    test.end();
}

#[test]
fn no_user_escapes_from_a_command() {
    let Some(test) = Test::begin("no_user_escapes_from_a_command") else {
        return;
    };
    let (prey, before) = (Prey::new(), host_state());
    let mut escaped = Vec::new();
    for (options, stopped) in [
        (&["--pids", "200"][..], &["all", "kernel", "ids"][..]),
        (
            &["--pids", "200", "--privileged"],
            &["all", "kernel", "ids"],
        ),
        (
            &["--pids", "200", "--privileged", "--idmap", "no"],
            &["all", "kernel"],
        ),
    ] {
        let mut command = Command::new(command_program());
        command
            .args(options)
            .args(["-m", "ram:/tmp=16M", "--"])
            .arg(attacker());
        command.args(prey.arguments());
        let who = format!("virt-sandbox {}", options.join(" "));
        let lines = lines(&finish(command, ""), ALL);
        escaped.extend(judge(&in_container(&who, stopped), &lines));
    }
    assert_eq!(host_state(), before);
    assert!(escaped.is_empty(), "{escaped:#?}");
    drop(prey);
    test.end();
}

#[test]
fn host_commands_follow_no_link_out_of_a_tree() {
    let Some(test) = Test::begin("host_commands_follow_no_link_out_of_a_tree") else {
        return;
    };
    follow_links_out(&[]);
    test.end();
}

/// Runs host commands on a sandbox, created with these options, whose tree has links that lead out of it.
fn follow_links_out(driver: &[&str]) {
    let (unit, prey) = (unit(), Prey::new());
    let create = ["create", "-N", "none", "-u", "t-esc.service", "t-esc"];
    ok(&[driver, &create].concat());
    let tree = Path::new(TREES).join("t-esc");
    // Links as root inside could make them.
    for link in [
        "etc/hostname",
        "etc/motd",
        "var/lib/leak",
        "root/leak",
        "srv/leak",
    ] {
        let path = tree.join(link);
        let _ = fs::remove_file(&path);
        symlink(SECRET, &path).unwrap();
    }
    let up = "../".repeat(20);
    symlink(format!("{up}root"), tree.join("srv/up")).unwrap();
    let journal = tree.join("var/log/journal");
    let kept = tree.join("var/log/journal.kept");
    fs::rename(&journal, &kept).unwrap();
    symlink("/var/log", &journal).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("t-escape.tar");
    let archive = archive.to_str().unwrap();
    ok(&["clone", "t-esc", "t-esc2"]);
    ok(&["export", "t-esc", "-o", archive]);
    let found = finish(grep(&[archive, &format!("{TREES}/t-esc2")]), "");
    assert_eq!(found.stdout, "", "the secret was copied");
    for words in [
        &["logs", "t-esc"][..],
        &["inspect", "t-esc"],
        &["status", "t-esc"],
    ] {
        let done = run(words);
        assert!(
            !done.stdout.contains(MARKER) && !done.stderr.contains(MARKER),
            "{done:?}"
        );
    }
    ok(&["start", "t-esc"]);
    assert_eq!(
        fs::read_to_string(SECRET).unwrap(),
        MARKER,
        "the host's file was written"
    );
    // Journal text must not control a terminal.
    ok(&["stop", "t-esc"]);
    fs::remove_file(&journal).unwrap();
    fs::rename(&kept, &journal).unwrap();
    ok(&["start", "t-esc"]);
    let said = inside(
        "t-esc",
        "printf '\\033]0;owned\\007\\033[2J\\n' | systemd-cat -t t-esc; journalctl --sync",
    );
    assert_eq!(said.code, 0, "{said:?}");
    for options in [
        &[][..],
        &["-o", "cat"],
        &["-o", "verbose"],
        &["-o", "json"],
        &["-o", "export"],
    ] {
        // On a terminal.
        let mut logs = Command::new("script");
        let program = service_program();
        let program = program.to_str().unwrap();
        let words = [&[program, "logs", "t-esc"], options].concat();
        logs.args(["-qec", &words.join(" "), "/dev/null"])
            .env("TERM", "xterm");
        let shown = finish(logs, "");
        assert_eq!(shown.code, 0, "{shown:?}");
        // In most formats journalctl itself replaces such a message by its length.
        assert!(
            shown.stdout.contains("owned") || options != ["-o", "cat"],
            "{shown:?}"
        );
        for order in ["\u{1b}]0;", "\u{7}", "\u{1b}[2J"] {
            assert!(!shown.stdout.contains(order), "{options:?}: {shown:?}");
        }
    }
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", "--force", name]);
    }
    drop((unit, prey));
}

/// Returns a grep for files that contain the marker; it follows no links.
fn grep(places: &[&str]) -> Command {
    let mut command = Command::new("grep");
    command.args(["-rla", "--", MARKER]).args(places);
    command
}
