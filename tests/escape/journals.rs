//! Processes that read a sandbox's journal, and the rights that an attacker would gain by taking one over.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{HostFile, Test, eventually, inside, ok, program};

/// Returns the journalctl process below `child`, if there is one.
fn reader_of(child: &Child) -> Option<PathBuf> {
    let parent = |process: &Path| {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let rest = stat.rsplit_once(')')?.1;
        rest.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let is_below = |process: &Path| {
        let mut above = parent(process);
        for _ in 0..5 {
            match above {
                Some(number) if number == child.id() => return true,
                Some(number) => above = parent(&Path::new("/proc").join(number.to_string())),
                None => return false,
            }
        }
        false
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.map(|entry| entry.path()).find(|process| {
        fs::read_to_string(process.join("comm")).is_ok_and(|name| name == "journalctl\n")
            && is_below(process)
    })
}

/// Checks that a process has no privileges and sees only the journal and the host's programs.
fn assert_confined(process: &Path) {
    let status = fs::read_to_string(process.join("status")).unwrap();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_else(|| panic!("{name} {status}")).trim()
    };
    for ids in [field("Uid:"), field("Gid:")] {
        let ids: BTreeSet<&str> = ids.split_whitespace().collect();
        assert_eq!(ids, BTreeSet::from(["1879048192"]), "{status}");
    }
    assert_eq!(field("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    for kind in ["mnt", "net", "ipc", "pid", "uts", "cgroup"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(kind)).unwrap();
        assert_ne!(of(process), of(Path::new("/proc/self")), "{kind}");
    }
    let root = process.join("root");
    let system = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
    for entry in fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_own = ["etc", "proc", "view"].contains(&name.as_str());
        assert!(is_own || system.contains(&name.as_str()), "{name}");
    }
    for entry in fs::read_dir(root.join("etc")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(name == "localtime" || name == "ld.so.cache", "{name:?}");
    }
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap();
    for mount in mounts.lines() {
        let options = mount.split_whitespace().nth(5).unwrap();
        let has = |option: &str| options.split(',').any(|word| word == option);
        assert!(has("ro") && has("nosuid") && has("nodev"), "{mounts}");
    }
    assert!(mounts.lines().count() < 12, "{mounts}");
    for number in 0..3 {
        let stream = fs::read_link(process.join(format!("fd/{number}"))).unwrap();
        let stream = stream.to_str().unwrap();
        assert!(
            stream == "/dev/null" || stream.starts_with("pipe:"),
            "{stream}"
        );
    }
    for entry in fs::read_dir(process.join("fd")).unwrap().flatten() {
        let leads_to = fs::read_link(entry.path()).unwrap_or_default();
        let is_hosts = leads_to.starts_with("/root") || leads_to.starts_with("/work");
        assert!(
            !is_hosts && !leads_to.starts_with("/dev/pts"),
            "{leads_to:?}"
        );
    }
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    let rest: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!(rest[4], "0", "it has a terminal: {stat}");
    let environment = fs::read(process.join("environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("T_SECRET"));
}

fn follow(words: &[&str]) -> Child {
    let mut command = program();
    command.args(words).env("T_SECRET", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Reads the journal of a running sandbox, and checks that the reader has nothing of the host.
fn read_confined(more: &[&str]) {
    let script = "while :; do echo tick; sleep 1; done";
    let command = ["t-esc", "--", "sh", "-c", script];
    ok(&[&["create", "-N", "none"], more, &command].concat());
    ok(&["start", "t-esc"]);
    let mut follower = follow(&["logs", "--follow", "-o", "cat", "-n", "1000", "t-esc"]);
    let mut said = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "tick"));
    let reader = reader_of(&follower).unwrap();
    assert_confined(&reader);
    // Also of a journal file that only root may read, and of a rotated one.
    inside(
        "t-esc",
        "chmod 600 /var/log/journal/*/*; journalctl --rotate; echo",
    );
    for _ in 0..3 {
        assert!(said.by_ref().any(|line| line.unwrap() == "tick"));
    }
    assert!(ok(&["logs", "t-esc"]).contains("tick"));
    // The reader ends with the command, even if the command is killed.
    follower.kill().unwrap();
    follower.wait().unwrap();
    eventually("the reader has ended", || !reader.exists());
    let mut follower = follow(&["logs", "--follow", "t-esc"]);
    eventually("it reads", || reader_of(&follower).is_some());
    let reader = reader_of(&follower).unwrap();
    drop(follower.stdout.take());
    follower.wait().unwrap();
    eventually("the reader has ended", || !reader.exists());
    ok(&["stop", "t-esc"]);
    assert!(ok(&["logs", "-o", "json", "-n", "1", "t-esc"]).starts_with('{'));
    ok(&["delete", "t-esc"]);
}

#[test]
fn the_journal_reader_is_confined() {
    let Some(test) = Test::begin("the_journal_reader_is_confined") else {
        return;
    };
    read_confined(&[]);
    test.end();
}

#[test]
fn the_journal_reader_of_an_image_is_confined() {
    let Some(test) = Test::begin("the_journal_reader_of_an_image_is_confined") else {
        return;
    };
    read_confined(&["--imagesize", "300M"]);
    test.end();
}

#[test]
fn no_link_leads_from_the_hosts_journal_into_a_sandbox() {
    const NAME: &str = "no_link_leads_from_the_hosts_journal_into_a_sandbox";
    let Some(test) = Test::begin(NAME) else {
        return;
    };
    let journals = Path::new("/var/log/journal");
    let before: BTreeSet<PathBuf> = names(journals);
    // A link that an earlier version left.
    ok(&["create", "-N", "none", "t-esc", "--", "sleep", "1000"]);
    let id = fs::read_to_string("/var/lib/libvirt/filesystems/t-esc/etc/machine-id").unwrap();
    let victim = HostFile::new("/var/lib/t-esc-journals/x@1.journal", "own");
    let link = HostFile::link(
        &format!("/var/log/journal/{}", id.trim()),
        "/var/lib/t-esc-journals",
    );
    ok(&["start", "t-esc"]);
    assert_eq!(names(journals), before);
    let words = ["-m", "--vacuum-files=1", "--vacuum-size=1"];
    let _ = Command::new("journalctl").args(words).status().unwrap();
    assert!(Path::new("/var/lib/t-esc-journals/x@1.journal").exists());
    ok(&["delete", "--force", "t-esc"]);
    drop((link, victim));
    test.end();
}

fn names(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
