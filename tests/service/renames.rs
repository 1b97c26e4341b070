//! Renames.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::{HostFile, Test, address, get, in_tree, listed, ok, program, run, says};
use crate::trees::UNIT;

const CONFIGS: &str = "/etc/libvirt-sandbox/services";

#[test]
fn a_renamed_sandbox_keeps_everything_but_its_name() {
    let Some(test) = Test::begin("a_renamed_sandbox_keeps_everything_but_its_name") else {
        return;
    };
    ok(&["create", "--start", "-u", "apache2.service", "t-old"]);
    says("t-old", "echo kept > /var/www/html/kept");
    let id = says("t-old", "cat /etc/machine-id");
    let before = address("t-old");
    let done = run(&["rename", "t-old", "t-new"]);
    assert!(
        done.code == 6 && done.stderr.contains("stop t-old"),
        "{done:?}"
    );
    ok(&["stop", "t-old"]);
    ok(&["create", "-N", "none", "-u", "apache2.service", "t-taken"]);
    for taken in ["t-taken", "t-old"] {
        let done = run(&["rename", "t-old", taken]);
        assert!(
            done.code == 5 && done.stderr.contains("already"),
            "{done:?}"
        );
    }
    ok(&["delete", "t-taken"]);

    ok(&["rename", "t-old", "t-new"]);
    assert_eq!(listed("t-old"), None);
    assert!(!in_tree("t-old", "").exists());
    for file in [
        "/etc/systemd/system/t-old_sandbox.service",
        "/var/lib/libvirt-sandbox/t-old",
        "/etc/libvirt-sandbox/services/t-old",
    ] {
        assert!(!Path::new(file).exists(), "{file}");
    }
    assert!(Path::new("/etc/systemd/system/t-new_sandbox.service").exists());
    ok(&["start", "t-new"]);
    assert_eq!(
        says("t-new", "hostname; cat /etc/machine-id"),
        format!("t-new\n{id}")
    );
    assert_eq!(address("t-new"), before, "the lease is kept");
    assert_eq!(get(&format!("http://{before}/kept")).stdout, "kept\n");
    assert!(ok(&["logs", "t-new"]).contains("apache2"));
    ok(&["delete", "--force", "t-new"]);
    test.end();
}

#[test]
fn values_not_derived_from_the_name_survive_a_rename() {
    let Some(test) = Test::begin("values_not_derived_from_the_name_survive_a_rename") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    let create = [
        "create",
        "-N",
        "none",
        "--path",
        "/var/lib/t-base",
        "--hostname",
        "www",
    ];
    ok(&[&create[..], &["-u", "t-state.service", "t-old"]].concat());
    fs::create_dir("/var/lib/t-base/t-new").unwrap();
    let done = run(&["rename", "t-old", "t-new"]);
    assert!(
        done.code == 5 && done.stderr.contains("/var/lib/t-base/t-new"),
        "{done:?}"
    );
    fs::remove_dir("/var/lib/t-base/t-new").unwrap();
    ok(&["rename", "t-old", "t-new"]);
    let hostname = fs::read_to_string("/var/lib/t-base/t-new/etc/hostname").unwrap();
    assert_eq!(hostname, "www\n");
    ok(&["delete", "t-new"]);
    assert!(!Path::new("/var/lib/t-base").exists());
    drop(unit);
    test.end();
}

#[test]
fn a_killed_rename_is_finished_by_the_next_command() {
    let Some(test) = Test::begin("a_killed_rename_is_finished_by_the_next_command") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-state.service", "t-a"]);
    let mut names = ["t-a", "t-b"];
    let mut finished = 0;
    for milliseconds in (0..60).step_by(3) {
        let mut child = program()
            .args(["rename", names[0], names[1]])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let _ = child.kill();
        child.wait().unwrap();
        let done = run(&["list"]);
        assert_eq!(done.code, 0, "{done:?}");
        finished += usize::from(done.stderr.contains("finish it"));
        let is_old = Path::new(CONFIGS).join(names[0]).exists();
        if !is_old {
            names.reverse();
        }
        assert!(
            Path::new(CONFIGS)
                .join(names[0])
                .join("sandbox.toml")
                .exists()
        );
        assert!(
            !Path::new(CONFIGS)
                .join(names[0])
                .join("journal.json")
                .exists()
        );
        assert!(!Path::new(CONFIGS).join(names[1]).exists());
        assert!(in_tree(names[0], "etc").exists() && !in_tree(names[1], "").exists());
        let hostname = fs::read_to_string(in_tree(names[0], "etc/hostname")).unwrap();
        assert_eq!(hostname.trim(), names[0]);
        assert_eq!(listed(names[0]).unwrap()["state"], "stopped");
    }
    eprintln!("{finished} were finished by the next command");
    ok(&["start", names[0]]);
    ok(&["delete", "--force", names[0]]);
    drop(unit);
    test.end();
}
