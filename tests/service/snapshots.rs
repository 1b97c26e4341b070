//! Snapshots: create, revert, interruption.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{HostFile, TREES, Test, in_tree, ok, output, program, run, says, send};

const UNIT: &str = "[Service]\nType=exec\nStateDirectory=t-snap\nExecStart=/bin/sleep infinity\n";

fn create(name: &str, format: &str) {
    let size = ["-N", "none", "-i", "100M", "--format", format];
    let unit = ["-u", "t-snap.service", name];
    ok(&[&["create"], &size[..], &unit].concat());
}

fn places(name: &str) -> PathBuf {
    in_tree(name, ".snapshots")
}

fn names(name: &str) -> Vec<String> {
    let text = ok(&["snapshot", "list", "--format", "json", name]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let name = |one: &serde_json::Value| one["name"].as_str().unwrap().to_owned();
    all.iter().map(name).collect()
}

/// Returns the content of a stopped sandbox's tree and configuration.
fn state(name: &str) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar");
    let archive = archive.to_str().unwrap();
    ok(&["export", name, "-o", archive]);
    let file = "tree/var/lib/t-snap/file";
    let content = output("tar", &["-xOf", archive, file]);
    let text = fs::read_to_string(format!("/etc/libvirt-sandbox/services/{name}/sandbox.toml"));
    let cpus = text
        .unwrap()
        .lines()
        .find(|line| line.starts_with("cpus"))
        .map(str::to_owned);
    (content.trim().to_owned(), cpus.unwrap_or_default())
}

fn write(name: &str, content: &str, cpus: &str) {
    ok(&["start", name]);
    says(name, &format!("echo {content} > /var/lib/t-snap/file"));
    ok(&["stop", name]);
    ok(&["set", name, &format!("cpus={cpus}")]);
}

fn goes_back(format: &str) {
    let unit = HostFile::unit("t-snap.service", UNIT);
    create("t-snap", format);
    write("t-snap", "one", "");
    ok(&["snapshot", "create", "t-snap", "first"]);
    write("t-snap", "two", "2");
    ok(&["snapshot", "create", "t-snap"]);
    assert_eq!(names("t-snap").len(), 2);
    let listed = ok(&["snapshot", "list", "t-snap"]);
    assert!(
        listed.starts_with("SNAPSHOT  ") && listed.contains("\nfirst  "),
        "{listed}"
    );

    // A running sandbox is frozen for a snapshot where libvirt can, and cannot be reverted while it runs.
    ok(&["start", "t-snap"]);
    let running = run(&["snapshot", "create", "t-snap", "running"]);
    assert!(
        running.code == 0 || running.stderr.contains("frozen"),
        "{running:?}"
    );
    assert_eq!(names("t-snap").len(), if running.code == 0 { 3 } else { 2 });
    assert_eq!(says("t-snap", "cat /var/lib/t-snap/file"), "two");
    let refused = run(&["snapshot", "revert", "t-snap", "first"]);
    assert!(
        refused.code == 6 && refused.stderr.contains("stop t-snap"),
        "{refused:?}"
    );
    ok(&["stop", "t-snap"]);
    if running.code == 0 {
        ok(&["snapshot", "revert", "t-snap", "running"]);
    }
    assert_eq!(state("t-snap"), ("two".to_owned(), "cpus = 2".to_owned()));
    ok(&["snapshot", "revert", "t-snap", "first"]);
    assert_eq!(state("t-snap"), ("one".to_owned(), String::new()));

    for (arguments, code, said) in [
        (&["create", "t-snap", "first"][..], 5, "delete t-snap first"),
        (&["revert", "t-snap", "no-such"], 4, "it has"),
        (&["delete", "t-snap", "no-such"], 4, "it has"),
        (&["create", "t-snap", "../x"], 2, "of a snapshot"),
    ] {
        let done = run(&[&["snapshot"], arguments].concat());
        assert!(
            done.code == code && done.stderr.contains(said),
            "{arguments:?}: {done:?}"
        );
    }

    // Snapshots follow a rename, and are in no clone.
    ok(&["clone", "t-snap", "t-snap-2"]);
    assert!(names("t-snap-2").is_empty());
    ok(&["delete", "t-snap-2"]);
    ok(&["rename", "t-snap", "t-snap-3"]);
    write("t-snap-3", "three", "1");
    ok(&["snapshot", "revert", "t-snap-3", "first"]);
    assert_eq!(state("t-snap-3"), ("one".to_owned(), String::new()));
    ok(&["start", "t-snap-3"]);
    assert_eq!(
        says("t-snap-3", "hostname; cat /etc/hostname"),
        "t-snap-3\nt-snap-3"
    );
    ok(&["stop", "t-snap-3"]);
    for name in names("t-snap-3") {
        ok(&["snapshot", "delete", "t-snap-3", &name]);
    }
    assert!(!places("t-snap-3").exists());
    ok(&["snapshot", "create", "t-snap-3"]);
    ok(&["delete", "t-snap-3"]);
    drop(unit);
}

#[test]
fn a_raw_image_is_reverted_to_a_snapshot() {
    let Some(test) = Test::begin("a_raw_image_is_reverted_to_a_snapshot") else {
        return;
    };
    goes_back("raw");
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn a_qcow2_image_is_reverted_to_a_snapshot() {
    let Some(test) = Test::begin("a_qcow2_image_is_reverted_to_a_snapshot") else {
        return;
    };
    goes_back("qcow2");
    test.end();
}

#[test]
fn a_directory_has_no_snapshots() {
    let Some(test) = Test::begin("a_directory_has_no_snapshots") else {
        return;
    };
    let unit = HostFile::unit("t-snap.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-snap.service", "t-snap"]);
    let refused = run(&["snapshot", "create", "t-snap"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("-i SIZE"),
        "{refused:?}"
    );
    assert_eq!(
        ok(&["snapshot", "list", "--format", "json", "t-snap"]),
        "[]\n"
    );
    ok(&["delete", "t-snap"]);
    drop(unit);
    test.end();
}

/// A command killed at any moment has done all or nothing once the next one ends.
#[test]
#[ignore = "slow: make test-slow"]
fn a_killed_snapshot_command_is_undone_or_finished() {
    let Some(test) = Test::begin("a_killed_snapshot_command_is_undone_or_finished") else {
        return;
    };
    let unit = HostFile::unit("t-snap.service", UNIT);
    create("t-snap", "raw");
    write("t-snap", "one", "");
    ok(&["snapshot", "create", "t-snap", "one"]);
    write("t-snap", "two", "2");
    ok(&["snapshot", "create", "t-snap", "two"]);
    let note = Path::new("/etc/libvirt-sandbox/services/t-snap/journal.json");
    let one = ("one".to_owned(), String::new());
    let two = ("two".to_owned(), "cpus = 2".to_owned());
    let mut cut_short = 0;
    for step in 0..12_u64 {
        let verb = ["revert", "create", "delete"][(step % 3) as usize];
        let snapshot = match verb {
            "revert" => "one",
            _ => "three",
        };
        if verb == "delete" && !names("t-snap").contains(&"three".to_owned()) {
            ok(&["snapshot", "create", "t-snap", "three"]);
        }
        let mut child = program();
        child.args(["snapshot", verb, "t-snap", snapshot]);
        let mut child = child.spawn().unwrap();
        // After the journal note is written, at another moment each time.
        while !note.exists() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(200));
        }
        sleep(Duration::from_millis(step / 3 * 8));
        if child.try_wait().unwrap().is_none() {
            send(&child, Signal::SIGKILL);
        }
        child.wait().unwrap();
        cut_short += i32::from(note.exists());
        let next = run(&["list"]);
        assert_eq!(next.code, 0, "{next:?}");
        assert!(!note.exists() && !places("t-snap").join(".work").exists());
        let now = state("t-snap");
        assert!(now == one || now == two, "{verb}: {now:?}");
        for name in names("t-snap") {
            let directory = places("t-snap").join(name);
            assert_eq!(fs::read_dir(directory).unwrap().count(), 5);
        }
        ok(&["snapshot", "revert", "t-snap", "two"]);
        assert_eq!(state("t-snap"), two);
        if names("t-snap").contains(&"three".to_owned()) {
            ok(&["snapshot", "delete", "t-snap", "three"]);
        }
    }
    assert!(cut_short > 2, "{cut_short} of 12 were cut short");
    ok(&["delete", "t-snap"]);
    assert!(!Path::new(TREES).join("t-snap.raw").exists());
    drop(unit);
    test.end();
}
