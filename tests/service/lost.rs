//! Host resources that a sandbox names but that are gone or never existed.

use std::fs;
use std::path::Path;

use crate::support::{HostFile, Test, in_tree, listed, ok, run, says};

const CONFIG: &str = "/etc/libvirt-sandbox/services/t-lost/sandbox.toml";

fn refused(arguments: &[&str], words: &[&str]) {
    let done = run(arguments);
    assert_eq!(done.code, 1, "{done:?}");
    for word in words {
        assert!(done.stderr.contains(word), "'{word}': {done:?}");
    }
}

#[test]
fn missing_host_resources_are_named_and_sandboxes_can_be_removed() {
    let Some(test) = Test::begin("missing_host_resources_are_named_and_sandboxes_can_be_removed")
    else {
        return;
    };
    let path = "/usr/lib/systemd/system/t-lost.service";
    // These directories exist to be hidden, even if the host's are not shared.
    let text = "[Service]\nExecStart=/bin/sleep infinity\nInaccessiblePaths=/boot /media /mnt\n";
    let unit = HostFile::new(path, text);
    let create = ["create", "-N", "none", "-u", "t-lost.service"];
    let done = run(&[&create[..], &["--memory", "4M", "t-lost"]].concat());
    assert!(
        done.code == 2 && done.stderr.contains("16M or more"),
        "{done:?}"
    );
    ok(&[&create[..], &["--start", "t-lost"]].concat());
    // The network is the sandbox's own, and its files in /proc belong to root inside.
    assert_eq!(says("t-lost", "stat -Lc %u /proc/net/dev"), "0");

    let config = fs::read_to_string(CONFIG).unwrap();
    fs::write(CONFIG, format!("{config}\nx = [\n")).unwrap();
    refused(&["status", "t-lost"], &[CONFIG, "edit t-lost"]);
    ok(&["stop", "t-lost"]);
    fs::remove_file(CONFIG).unwrap();
    refused(&["start", "t-lost"], &[CONFIG, "delete --force t-lost"]);
    fs::write(CONFIG, &config).unwrap();

    let (tree, away) = (in_tree("t-lost", ""), in_tree("t-lost-away", ""));
    fs::rename(&tree, &away).unwrap();
    refused(
        &["start", "t-lost"],
        &["filesystems/t-lost", "No such file"],
    );
    assert_eq!(listed("t-lost").unwrap()["state"], "stopped");
    let done = run(&["delete", "t-lost"]);
    assert!(done.code == 4 && done.stderr.contains("mount"), "{done:?}");
    fs::rename(&away, &tree).unwrap();

    drop(unit);
    refused(
        &["start", "t-lost"],
        &["'t-lost.service'", "package", "delete t-lost"],
    );
    fs::remove_file(CONFIG).unwrap();
    ok(&["delete", "--force", "t-lost"]);
    test.end();
}

#[test]
fn a_sandbox_that_was_never_started_is_deleted_without_its_configuration() {
    let name = "a_sandbox_that_was_never_started_is_deleted_without_its_configuration";
    let Some(test) = Test::begin(name) else {
        return;
    };
    let text = "[Service]\nExecStart=/bin/sleep infinity\n";
    let unit = HostFile::unit("t-lost.service", text);
    let change: [&dyn Fn(); 2] = [&|| fs::remove_file(CONFIG).unwrap(), &|| {
        fs::write(CONFIG, "version = 99").unwrap()
    }];
    for change in change {
        ok(&["create", "-N", "none", "-u", "t-lost.service", "t-lost"]);
        change();
        assert_eq!(listed("t-lost").unwrap()["state"], "broken");
        ok(&["delete", "t-lost"]);
        assert!(!in_tree("t-lost", "").exists());
    }
    ok(&["create", "-N", "none", "-u", "t-lost.service", "t-lost"]);
    // A file that names another sandbox may be that one's: it is shown, and nothing is guessed.
    let config = fs::read_to_string(CONFIG).unwrap();
    let other = config.replace("name = \"t-lost\"", "name = \"t-other\"");
    fs::write(CONFIG, other).unwrap();
    assert_eq!(listed("t-lost").unwrap()["state"], "broken");
    refused(&["delete", "t-lost"], &["'name' is 't-other'"]);
    fs::write(CONFIG, config).unwrap();
    // A start that fails at its last step leaves nothing running.
    let started = Path::new(CONFIG).with_file_name("started.toml");
    fs::create_dir(&started).unwrap();
    refused(&["start", "t-lost"], &["started.toml"]);
    assert_eq!(listed("t-lost").unwrap()["state"], "stopped");
    fs::remove_dir(&started).unwrap();
    // Its files are gone for good.
    fs::remove_dir_all(in_tree("t-lost", "")).unwrap();
    assert_eq!(run(&["delete", "t-lost"]).code, 4);
    ok(&["delete", "--force", "t-lost"]);
    drop(unit);
    test.end();
}
