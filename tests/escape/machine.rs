//! Escape attempts from inside a virtual machine. Root inside may do anything to its own kernel, so a test checks what was
//! read of the host inside, and what changed on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Instant, SystemTime};

use test_harness::guest::{Flavour, Kernel};
use test_harness::libvirtd;
use test_harness::prey::{BESIDE, IN_USR, LEFT, LIAR, LIE, SHARED};

use crate::races::ends;
use crate::support::{Done, HostFile, TREES, Test, eventually, finish, in_tree, inside, ok, run};
use crate::{
    ALL, Attacker, MARKER, Prey, attack, follow_links_out, host_state, judge, lines, place, unit,
};

/// Directory of the host that contains the shared one.
const OUTER: &str = "/var/lib/t-escape-share";

/// Least number of attempts that only a machine makes.
const OF_MACHINES: usize = 25;

/// Classes of attempts that reach only the machine itself, and what they reach.
const OWN: [(&str, &str); 3] = [
    ("kernel", "its own kernel"),
    ("ids", "its own kernel"),
    ("tree", "its own tree"),
];

/// Directories shared with a machine, and the hidden ones beside them.
struct Shared {
    _files: Vec<HostFile>,
}

impl Shared {
    fn new() -> Self {
        let files = ["file", "other", "dir/file"];
        let in_usr = files.map(|name| HostFile::new(&format!("{IN_USR}/{name}"), "the host's"));
        let shared = files.map(|name| HostFile::new(&format!("{OUTER}/in/{name}"), "the host's"));
        let beside = HostFile::new(&format!("{OUTER}/{BESIDE}"), MARKER);
        fs::create_dir_all(format!("{IN_USR}/empty")).unwrap();
        Self {
            _files: in_usr.into_iter().chain(shared).chain([beside]).collect(),
        }
    }

    /// Lists the state of the files that must not change.
    fn state() -> Vec<String> {
        let mut found = Vec::new();
        let mut paths = vec![PathBuf::from(IN_USR), PathBuf::from(OUTER)];
        while let Some(path) = paths.pop() {
            let at = fs::symlink_metadata(&path).unwrap();
            let content = at.is_file().then(|| fs::read_to_string(&path).unwrap());
            let numbers = [
                at.ino(),
                at.nlink(),
                u64::from(at.uid()),
                u64::from(at.gid()),
            ];
            let times = [at.mtime(), at.mtime_nsec(), at.ctime(), at.ctime_nsec()];
            found.push(format!(
                "{path:?} {:o} {numbers:?} {times:?} {content:?}",
                at.mode()
            ));
            if at.is_dir() {
                paths.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        }
        found.sort();
        found
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for path in [IN_USR, OUTER] {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Runs the attacker with the attempts that only a machine makes.
fn attack_shares(user: &str, prey: &Prey) -> Done {
    let uid = format!("--uid={user}");
    let systemd = ["systemd-run", "--quiet", "--wait", "--pipe", &uid];
    let words = prey.arguments();
    let words = words.iter().map(String::as_str);
    let fixed = ["execute", "t-esc", "--"];
    let attacker = ["/srv/attacker", "shares"];
    let all: Vec<&str> = fixed
        .into_iter()
        .chain(systemd)
        .chain(attacker)
        .chain(words)
        .collect();
    run(&all)
}

/// Checks that only the host's root can reach files in the tree.
fn assert_nobody_gets_into(tree: &Path) {
    let left: Vec<PathBuf> = fs::read_dir(tree.join("var/tmp"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(LEFT)
        })
        .collect();
    for path in &left {
        let at = fs::symlink_metadata(path).unwrap();
        println!("{:o} {} {}", at.mode(), at.rdev(), path.display());
        for program in [&["cat"][..], &["ls", "-d"], &["sh", "-c", "exec \"$0\""]] {
            let mut somebody = Command::new("setpriv");
            somebody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            somebody.args(program).arg(path);
            let done = finish(somebody, "");
            assert!(
                done.code != 0 && done.stderr.contains("Permission denied"),
                "{done:?}"
            );
        }
    }
    let programs = left
        .iter()
        .filter(|path| path.metadata().is_ok_and(|at| at.mode() & 0o6000 != 0));
    assert_eq!(programs.count(), 1, "{left:?}");
    assert!(left.len() >= 5, "{left:?}");
    let mode = tree.metadata().unwrap().permissions().mode();
    assert_eq!((mode & 0o7777, tree.metadata().unwrap().uid()), (0o700, 0));
}

/// Makes all attempts from a service in a machine with this kernel.
fn attack_from(flavour: Flavour) {
    let (unit, mut prey, shared) = (unit(), Prey::new(), Shared::new());
    let (before, state, since) = (host_state(), Shared::state(), SystemTime::now());
    let uri = libvirtd::qemu_uri().unwrap();
    let bind = format!("host-bind:{SHARED}={OUTER}/in,ro");
    let create = ["create", "-N", "none", "-u", "t-esc.service"];
    // Another sandbox, whose tree is beside this one.
    ok(&[&create[..], &["t-esc2"]].concat());
    let release = Kernel::find(flavour).unwrap().version;
    let machine = ["--kernver", &release, "--pids", "200", "-m", &bind, "t-esc"];
    ok(&[&["-c", &uri], &create[..], &machine].concat());
    let trees = Path::new(TREES);
    for dir in ["t-esc2/srv", "t-esc2", "t-esc"] {
        fs::write(trees.join(dir).join(BESIDE), MARKER).unwrap();
    }
    place("t-esc");
    ok(&["start", "t-esc"]);
    let mut escaped = Vec::new();
    for user in ["root", "nobody"] {
        for (name, lines) in [
            (
                format!("{user} of a machine"),
                lines(&attack("t-esc", user, &prey), ALL),
            ),
            (
                format!("{user} of a machine, shares"),
                lines(&attack_shares(user, &prey), OF_MACHINES),
            ),
        ] {
            let who = Attacker {
                name: &name,
                stopped: &["all", "root"],
                own: &OWN,
            };
            escaped.extend(judge(&who, &lines));
        }
    }
    assert_eq!(
        inside("t-esc", "systemctl is-active t-esc").stdout.trim(),
        "active"
    );
    assert_eq!((host_state(), Shared::state()), (before, state));
    assert!(SystemTime::now() >= since, "the host's clock was set");
    assert!(
        prey.process.try_wait().unwrap().is_none(),
        "the host's process was ended"
    );
    assert!(escaped.is_empty(), "{escaped:#?}");
    assert_nobody_gets_into(&trees.join("t-esc"));
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", "--force", name]);
    }
    drop((unit, prey, shared));
}

#[test]
#[ignore = "slow: make test-slow"]
fn no_user_escapes_from_a_machine_with_9p() {
    let Some(test) = Test::begin("no_user_escapes_from_a_machine_with_9p") else {
        return;
    };
    attack_from(Flavour::Generic);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn no_user_escapes_from_a_machine_with_virtiofs_alone() {
    let Some(test) = Test::begin("no_user_escapes_from_a_machine_with_virtiofs_alone") else {
        return;
    };
    attack_from(Flavour::Cloud);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn host_commands_follow_no_link_out_of_the_tree_of_a_machine() {
    let Some(test) = Test::begin("host_commands_follow_no_link_out_of_the_tree_of_a_machine")
    else {
        return;
    };
    follow_links_out(&["-c", &libvirtd::qemu_uri().unwrap()]);
    test.end();
}

/// Answers of a hostile machine to the host.
const LIES: [&str; 13] = [
    "nothing",
    "another version",
    "noise",
    "noise for an answer",
    "a frame longer than any",
    "the longest frame",
    "what nobody has asked for",
    "an end without an answer",
    "orders to a terminal",
    "orders in an answer",
    "absurd numbers",
    "brackets",
    "many ends",
];

/// Lies after which a command waits for its full time-out; only the commands with the shortest one are tried.
const SILENT: [&str; 2] = ["no answer", "an answer without an end"];

/// Number of the first commands of `ASKING` with the shortest time-out.
const SOONEST: usize = 4;

/// Commands that wait for an answer from the machine.
const ASKING: [&[&str]; 9] = [
    &["list"],
    &["list", "--format", "json"],
    &["stats", "t-esc"],
    &["execute", "t-esc", "--", "true"],
    &["status", "t-esc"],
    &["logs", "t-esc"],
    &["rotate", "t-esc"],
    &["reload", "t-esc"],
    &["set", "t-esc", "pids=300"],
];

#[test]
#[ignore = "slow: make test-slow"]
fn host_commands_end_whatever_a_machine_answers() {
    let Some(test) = Test::begin("host_commands_end_whatever_a_machine_answers") else {
        return;
    };
    let unit = unit();
    let uri = libvirtd::qemu_uri().unwrap();
    ok(&[
        "-c",
        &uri,
        "create",
        "-N",
        "none",
        "-u",
        "t-esc.service",
        "t-esc",
    ]);
    place("t-esc");
    ok(&["start", "t-esc"]);
    let [lie, liar] = [LIE, LIAR].map(|path| in_tree("t-esc", path.trim_start_matches('/')));
    ok(&[
        "execute",
        "t-esc",
        "--",
        "systemd-run",
        "--quiet",
        "/srv/attacker",
        "liar",
    ]);
    eventually("it answers in the place of ours", || liar.exists());
    println!("it has {} ways", fs::read_to_string(liar).unwrap());
    let all = LIES.map(|name| (name, &ASKING[..]));
    let silent = SILENT.map(|name| (name, &ASKING[..SOONEST]));
    for (name, asking) in all.into_iter().chain(silent) {
        fs::write(&lie, name).unwrap();
        thread::scope(|scope| {
            let asked = |words: &'static &[&str]| {
                scope.spawn(move || (words, Instant::now(), ends(words), Instant::now()))
            };
            for running in asking.iter().map(asked).collect::<Vec<_>>() {
                let (words, began, done, ended) = running.join().unwrap();
                println!(
                    "{name}: {words:?}: {} after {:.1} s {:.120}",
                    done.code,
                    (ended - began).as_secs_f32(),
                    done.stderr.lines().last().unwrap_or("")
                );
            }
        });
    }
    // The last command.
    ok(&["stop", "t-esc"]);
    ok(&["start", "t-esc"]);
    ok(&["execute", "t-esc", "--", "true"]);
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}
