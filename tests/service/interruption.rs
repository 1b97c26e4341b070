//! Interrupted `create` and `delete`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{HostFile, Test, eventually, in_tree, ok, program, run, send};

const UNIT: &str = "[Service]\nExecStart=/bin/sleep infinity\nStateDirectory=t-slow\n";
const FILES: usize = 12_000;

/// Makes a unit with so much state that copying it takes a while.
fn slow() -> (HostFile, HostFile) {
    let unit = HostFile::unit("t-slow.service", UNIT);
    let first = HostFile::new("/var/lib/t-slow/0", "first");
    for file in 1..FILES {
        fs::write(format!("/var/lib/t-slow/{file}"), "x").unwrap();
    }
    (unit, first)
}

/// Starts a `create`, and returns while it copies.
fn half_made() -> Child {
    let child = program()
        .args([
            "create",
            "--state",
            "copy",
            "-N",
            "none",
            "-u",
            "t-slow.service",
            "t-cut",
        ])
        .stderr(Stdio::piped())
        // Ctrl+C goes to a whole process group, so the program gets one of its own.
        .process_group(0)
        .spawn()
        .unwrap();
    let copied = in_tree("t-cut", "var/lib/t-slow");
    eventually("the copying begins", || {
        fs::read_dir(&copied).is_ok_and(|entries| entries.count() > 10)
    });
    child
}

#[test]
fn an_interrupted_create_is_undone_at_once() {
    let Some(test) = Test::begin("an_interrupted_create_is_undone_at_once") else {
        return;
    };
    let slow = slow();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let child = half_made();
        send(&child, signal);
        let begin = Instant::now();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{signal}: it was through already");
        assert!(said.contains("interrupted"), "{signal}: {said}");
        assert_eq!(said.lines().count(), 1, "{signal}: {said}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(!Path::new("/etc/libvirt-sandbox/services/t-cut").exists());
        assert!(!in_tree("t-cut", "").exists());
    }
    drop(slow);
    test.end();
}

#[test]
fn a_killed_create_is_undone_by_the_next_command() {
    let Some(test) = Test::begin("a_killed_create_is_undone_by_the_next_command") else {
        return;
    };
    let slow = slow();
    let mut child = half_made();
    // A sandbox that another command works on is left alone.
    assert!(!ok(&["list"]).contains("t-cut"));
    assert!(
        child.try_wait().unwrap().is_none(),
        "it was through already"
    );
    send(&child, Signal::SIGKILL);
    child.wait().unwrap();
    assert!(in_tree("t-cut", "var").exists());
    let next = run(&["list"]);
    assert_eq!(next.code, 0, "{next:?}");
    assert!(next.stderr.contains("'t-cut'"), "{next:?}");
    assert!(!in_tree("t-cut", "").exists());
    // The name can be used again.
    let unit = HostFile::unit(
        "t-quick.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    );
    ok(&["create", "-N", "none", "-u", "t-quick.service", "t-cut"]);
    ok(&["delete", "t-cut"]);
    drop((slow, unit));
    test.end();
}

#[test]
fn a_killed_delete_is_finished_by_the_next_command() {
    let Some(test) = Test::begin("a_killed_delete_is_finished_by_the_next_command") else {
        return;
    };
    let slow = slow();
    ok(&[
        "create",
        "--state",
        "copy",
        "-N",
        "none",
        "-u",
        "t-slow.service",
        "t-cut",
    ]);
    let mut child = program().args(["delete", "t-cut"]).spawn().unwrap();
    eventually("the removal is noted", || {
        Path::new("/etc/libvirt-sandbox/services/t-cut/journal.json").exists()
    });
    send(&child, Signal::SIGKILL);
    child.wait().unwrap();
    ok(&["list"]);
    drop(slow);
    test.end();
}

#[test]
fn repair_says_what_a_killed_create_has_left_and_removes_it() {
    let name = "repair_says_what_a_killed_create_has_left_and_removes_it";
    let Some(test) = Test::begin(name) else {
        return;
    };
    let slow = slow();
    let mut child = half_made();
    // A command is at work.
    assert_eq!(ok(&["repair", "t-cut"]), "nothing to repair\n");
    send(&child, Signal::SIGKILL);
    child.wait().unwrap();
    // One that was killed before its first intent, and one in the middle of writing a file.
    let configs = Path::new("/etc/libvirt-sandbox/services");
    fs::create_dir(configs.join("t-bare")).unwrap();
    let half_written = format!(".virt-sandbox.{}.1.tmp", child.id());
    fs::write(configs.join("t-bare").join(&half_written), "{").unwrap();
    fs::write(Path::new("/etc/systemd/system").join(&half_written), "[").unwrap();

    let planned = run(&["repair", "--dry-run", "--format", "json"]);
    assert_eq!(planned.code, 1, "{planned:?}");
    let planned: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
    let planned = planned.as_array().unwrap();
    assert!(
        planned.iter().all(|repair| repair["result"] == "planned"),
        "{planned:?}"
    );
    let of_create = planned
        .iter()
        .find(|repair| repair["name"] == "t-cut")
        .unwrap();
    assert_eq!(of_create["found"], "an interrupted create or delete");
    assert!(in_tree("t-cut", "var").exists());

    let done = run(&["repair"]);
    assert_eq!((done.code, &*done.stderr), (0, ""), "{done:?}");
    for word in [
        "t-cut",
        "t-bare",
        &half_written,
        "remove what is left",
        "done",
    ] {
        assert!(done.stdout.contains(word), "'{word}': {done:?}");
    }
    assert!(!in_tree("t-cut", "").exists());
    assert_eq!(ok(&["repair"]), "nothing to repair\n");
    drop(slow);
    test.end();
}
