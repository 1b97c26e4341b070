//! Export and import.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    HostFile, TREES, Test, address, eventually, get, in_tree, listed, ok, output, program, run,
    says, service_program,
};
use crate::trees::{UNIT, described, furnish};

#[test]
fn an_imported_sandbox_equals_the_exported_one() {
    let Some(test) = Test::begin("an_imported_sandbox_equals_the_exported_one") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    ok(&[
        "create",
        "-N",
        "none",
        "--pids",
        "99",
        "-u",
        "t-state.service",
        "t-one",
    ]);
    furnish(&in_tree("t-one", "var/lib/t-state"));
    let tree = described(&in_tree("t-one", ""));
    // The mark in the tree is not compared: it names files made for this path, which is the same here.
    let config = ok(&["inspect", "t-one"]);
    let manifest = || fs::read("/etc/libvirt-sandbox/services/t-one/manifest").unwrap();
    let before = manifest();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        ok(&["export", "t-one", "-o", &path(name)]);
    }
    let done = run(&["export", "t-one", "-o", &path("a.tar")]);
    assert!(
        done.code == 5 && done.stderr.contains("already"),
        "{done:?}"
    );

    // tar can read the archive, with owners, attributes and holes.
    fs::create_dir(dir.path().join("x")).unwrap();
    output(
        "tar",
        &[
            "--extract",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--same-permissions",
            "--file",
            &path("a.tar"),
            "--directory",
            &path("x"),
        ],
    );
    let without_mark = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("b'.virt-sandbox.json'"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        without_mark(&described(&dir.path().join("x/tree"))),
        without_mark(&tree)
    );

    ok(&["delete", "t-one"]);
    for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
        ok(&["import", &path(name)]);
        assert_eq!(
            without_mark(&described(&in_tree("t-one", ""))),
            without_mark(&tree),
            "{name}"
        );
        assert_eq!(ok(&["inspect", "t-one"]), config);
        assert_eq!(manifest(), before);
        ok(&["delete", "t-one"]);
    }
    // Repacked by tar, which writes another format.
    fs::remove_file(path("a.tar")).unwrap();
    let pack = "cd x && tar --create --file ../a.tar --format=gnu virt-sandbox/metadata.json virt-sandbox/sandbox.toml \
                virt-sandbox/manifest virt-sandbox/base.json tree virt-sandbox/end";
    output(
        "sh",
        &["-c", &format!("cd '{}' && {pack}", dir.path().display())],
    );
    ok(&[
        "import",
        "--path",
        "/var/lib/t-base",
        &path("a.tar"),
        "t-two",
    ]);
    let hostname = fs::read_to_string("/var/lib/t-base/t-two/etc/hostname").unwrap();
    assert_eq!(hostname, "t-two\n");
    ok(&["delete", "t-two"]);
    assert!(!Path::new("/var/lib/t-base").exists());
    drop(unit);
    test.end();
}

#[test]
fn an_import_under_another_name_gets_its_own_identity() {
    let Some(test) = Test::begin("an_import_under_another_name_gets_its_own_identity") else {
        return;
    };
    ok(&["create", "--start", "-u", "apache2.service", "t-one"]);
    says("t-one", "echo same > /var/www/html/page");
    // Through a pipe, while the sandbox runs.
    let script = "\"$0\" export t-one -o - | \"$0\" import --start - t-two";
    output("sh", &["-c", script, service_program().to_str().unwrap()]);
    assert_eq!(listed("t-one").unwrap()["state"], "running");
    assert_ne!(address("t-one"), address("t-two"));
    let identity = |name: &str| says(name, "cat /etc/machine-id; cat /sys/class/net/eth0/address");
    assert_ne!(identity("t-one"), identity("t-two"));
    for name in ["t-one", "t-two"] {
        assert_eq!(
            get(&format!("http://{}/page", address(name))).stdout,
            "same\n"
        );
        ok(&["delete", "--force", name]);
    }
    test.end();
}

#[test]
fn interrupted_exports_and_imports_leave_nothing() {
    let Some(test) = Test::begin("interrupted_exports_and_imports_leave_nothing") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-state.service", "t-one"]);
    fs::create_dir_all(in_tree("t-one", "var/lib/t-state")).unwrap();
    for file in 0..8000 {
        fs::write(
            in_tree("t-one", "var/lib/t-state").join(file.to_string()),
            "x",
        )
        .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar");
    let path = archive.to_str().unwrap();
    let send = |id: u32, signal| kill(Pid::from_raw(id.cast_signed()), signal).unwrap();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let child = program()
            .args(["export", "t-one", "-o", path])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60));
        send(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{signal}: it was through already");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{signal}");
    }
    ok(&["export", "t-one", "-o", path]);
    let import = || {
        let child = program()
            .args(["import", path, "t-cut"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let unpacked = in_tree("t-cut", "var/lib/t-state");
        eventually("the unpacking begins", || {
            fs::read_dir(&unpacked).is_ok_and(|entries| entries.count() > 10)
        });
        child
    };
    let child = import();
    send(child.id(), Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("interrupted"),
        "{said}"
    );
    assert!(!in_tree("t-cut", "").exists());
    let child = import();
    send(child.id(), Signal::SIGKILL);
    child.wait_with_output().unwrap();
    assert!(in_tree("t-cut", "").exists());
    ok(&["list"]);
    assert!(!in_tree("t-cut", "").exists());

    // Input that never arrives.
    let mut child = program()
        .args(["import", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    send(child.id(), Signal::SIGINT);
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed().as_secs() < 5, "it goes on waiting");
        std::thread::sleep(Duration::from_millis(20));
    }
    ok(&["delete", "t-one"]);
    assert!(!Path::new(TREES).join("t-one").exists());
    drop(unit);
    test.end();
}
