//! Programs and libraries that a sandbox has in memory, and the host has replaced.

use std::fs;
use std::path::Path;

use test_harness::libvirtd;

use crate::support::{HostFile, Test, eventually, listed, ok};

/// Program that only one sandbox runs.
const PROGRAM: &str = "/usr/local/bin/t-old-sleep";

/// Replaces a file as package managers do: another one is renamed over it.
fn replace(path: &str) {
    let fresh = format!("{path}.new");
    fs::copy(path, &fresh).unwrap();
    fs::rename(&fresh, path).unwrap();
}

fn names_what_was_replaced(create: &[&str]) {
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    let _program = HostFile::new(PROGRAM, "");
    fs::copy(sleep, PROGRAM).unwrap();
    let _unit = HostFile::unit(
        "t-old.service",
        &format!("[Service]\nType=exec\nExecStart={PROGRAM} infinity\n"),
    );
    let check = |name: &str| ok(&["upgrade", "--check", name]);
    ok(&[
        create,
        &["create", "-N", "none", "-u", "t-old.service", "t-old"],
    ]
    .concat());
    assert_eq!(check("t-old"), "", "it does not run");
    ok(&["start", "t-old"]);
    assert_eq!(check("t-old"), "t-old: up to date\n");

    replace(PROGRAM);
    let line = format!("t-old: restart it: it runs old {PROGRAM}\n");
    eventually("the old program is seen", || check("t-old") == line);
    let json = ok(&["upgrade", "--check", "--format", "json", "t-old"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["outdated"], true);
    assert_eq!(json[0]["files"][0], PROGRAM);
    eventually("list tells", || {
        listed("t-old").unwrap()["outdated"] == true
    });
    assert!(ok(&["status", "t-old"]).contains("outdated"));

    let upgraded = ok(&["upgrade", "--restart", "t-old"]);
    assert!(upgraded.contains("restarted"), "{upgraded}");
    assert_eq!(check("t-old"), "t-old: up to date\n");
    assert!(ok(&["upgrade", "--restart", "t-old"]).contains("up to date"));
    assert!(Path::new(PROGRAM).exists());
    ok(&["delete", "--force", "t-old"]);
}

#[test]
fn a_container_that_runs_a_replaced_program_is_renewed() {
    let Some(test) = Test::begin("a_container_that_runs_a_replaced_program_is_renewed") else {
        return;
    };
    names_what_was_replaced(&[]);
    test.end();
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_that_runs_a_replaced_program_is_renewed() {
    let Some(test) = Test::begin("a_machine_that_runs_a_replaced_program_is_renewed") else {
        return;
    };
    let uri = libvirtd::qemu_uri().unwrap();
    names_what_was_replaced(&["-c", &uri]);
    test.end();
}
