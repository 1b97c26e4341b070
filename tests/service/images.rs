//! Virtual machines whose tree is in an image, for `make test-vm`: nobody else mounts it while they run, and data is kept.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use test_harness::libvirtd;

use crate::support::{HostFile, TREES, Test, eventually, inside, listed, ok, program, run, says};

fn virsh(arguments: &[&str]) -> std::process::Output {
    let uri = libvirtd::qemu_uri().unwrap();
    let mut command = std::process::Command::new("virsh");
    command.args(["-c", &uri]).args(arguments).output().unwrap()
}

fn create(name: &str, unit: &str, image: &[&str]) {
    let uri = libvirtd::qemu_uri().unwrap();
    let create = ["-c", &uri, "create", "-N", "none", "-u", unit];
    ok(&[&create[..], image, &[name]].concat());
}

/// Kills the machine, as a power cut would.
fn cut(name: &str) {
    assert!(virsh(&["destroy", name]).status.success());
    eventually("it has ended", || {
        listed(name).unwrap()["state"] == "stopped"
    });
}

fn keeps_its_tree(image: &[&str]) {
    let unit = HostFile::unit(
        "t-disk.service",
        "[Service]\nType=exec\nStateDirectory=t-disk\nUser=www-data\nExecStart=/bin/sleep infinity\n",
    );
    create("t-disk", "t-disk.service", image);
    ok(&["start", "t-disk"]);
    let inspected = ok(&["inspect", "t-disk"]);
    assert!(inspected.contains("virtio disk"), "{inspected}");
    let json = ok(&["inspect", "--format", "json", "t-disk"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["owners"], "image");
    assert_eq!(
        says("t-disk", "stat -c %U:%a /var/lib/t-disk /etc/shadow /root"),
        "www-data:755\nroot:640\nroot:700"
    );
    says("t-disk", "echo one > /var/lib/t-disk/file");

    // While the machine runs, the host reads a copy or asks inside.
    assert!(ok(&["logs", "t-disk"]).contains("Reached target"));
    ok(&["snapshot", "create", "t-disk", "one"]);
    ok(&["clone", "t-disk", "t-disk-2"]);
    let refused = run(&["upgrade", "t-disk"]);
    assert!(refused.stderr.contains("to itself"), "{refused:?}");
    assert_eq!(listed("t-disk").unwrap()["state"], "running");

    says("t-disk", "echo two > /var/lib/t-disk/file; sync");
    cut("t-disk");
    // A reader of the image on the host keeps the machine from starting, even if libvirt starts it.
    let mut reader = program();
    reader
        .args(["logs", "--follow", "t-disk"])
        .stdout(Stdio::piped());
    let mut reader = reader.spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    lines.next().expect("the journal has lines").unwrap();
    let started = virsh(&["start", "t-disk"]);
    let said = String::from_utf8_lossy(&started.stderr);
    assert!(!started.status.success() && said.contains("lock"), "{said}");
    let refused = run(&["start", "t-disk"]);
    assert!(
        refused.code == 8 && refused.stderr.contains("in use"),
        "{refused:?}"
    );
    reader.kill().unwrap();
    reader.wait().unwrap();

    ok(&["start", "t-disk"]);
    assert_eq!(says("t-disk", "cat /var/lib/t-disk/file"), "two");
    ok(&["stop", "t-disk"]);
    ok(&["snapshot", "revert", "t-disk", "one"]);
    ok(&["start", "t-disk"]);
    assert_eq!(says("t-disk", "cat /var/lib/t-disk/file"), "one");
    ok(&["stop", "t-disk"]);
    ok(&["start", "t-disk-2"]);
    assert_eq!(
        says("t-disk-2", "cat /var/lib/t-disk/file; hostname"),
        "one\nt-disk-2"
    );
    ok(&["delete", "--force", "t-disk-2"]);
    ok(&["delete", "t-disk"]);
    assert_eq!(
        fs::read_dir(TREES).map_or(0, |trees| {
            trees
                .flatten()
                .filter(|tree| tree.file_name().to_string_lossy().contains("t-disk"))
                .count()
        }),
        0
    );
    drop(unit);
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_keeps_its_tree_in_a_raw_image() {
    let Some(test) = Test::begin("a_machine_keeps_its_tree_in_a_raw_image") else {
        return;
    };
    keeps_its_tree(&["-i", "200M"]);
    test.end();
}

#[test]
#[ignore = "for make test-vm"]
fn a_machine_keeps_its_tree_in_a_qcow2_image() {
    let Some(test) = Test::begin("a_machine_keeps_its_tree_in_a_qcow2_image") else {
        return;
    };
    keeps_its_tree(&["-i", "400M", "--format", "qcow2", "--filesystem", "xfs"]);
    test.end();
}

/// Every row that a database has acknowledged survives a kill and a stop of its machine.
#[test]
#[ignore = "for make test-vm"]
fn a_database_in_an_image_loses_nothing() {
    let Some(test) = Test::begin("a_database_in_an_image_loses_nothing") else {
        return;
    };
    if !Path::new("/usr/lib/postgresql").exists() {
        eprintln!("skipped: a_database_in_an_image_loses_nothing: there is no postgresql");
        return;
    }
    create("t-rows", "postgresql.service", &["-i", "500M"]);
    ok(&["start", "t-rows"]);
    let psql = "su postgres -c 'psql -qAt'";
    eventually("it answers", || {
        inside("t-rows", &format!("echo 'create table t (n int)' | {psql}")).code == 0
    });
    let acknowledged = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "(for n in $(seq 100000); do echo \"insert into t values ($n); select $n;\"; done) | {psql}"
    );
    let mut writer = program();
    writer.args(["execute", "t-rows", "--", "sh", "-c", &script]);
    writer.stdin(Stdio::null()).stderr(Stdio::null());
    writer.stdout(acknowledged.reopen().unwrap());
    let mut writer = writer.spawn().unwrap();
    let rows = || {
        let text = fs::read_to_string(acknowledged.path()).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .last()
            .and_then(|last| last.parse::<u32>().ok())
            .unwrap_or(0)
    };
    while rows() <= 20 {
        assert!(writer.try_wait().unwrap().is_none(), "it ended");
        sleep(Duration::from_millis(100));
    }
    sleep(Duration::from_secs(3));
    cut("t-rows");
    writer.wait().unwrap();
    let before = rows();
    ok(&["start", "t-rows"]);
    let count = || {
        let script = format!("echo 'select count(distinct n), max(n) from t' | {psql}");
        let text = says("t-rows", &script);
        let (count, most) = text.split_once('|').unwrap();
        (count.parse::<u32>().unwrap(), most.parse::<u32>().unwrap())
    };
    let (found, most) = count();
    assert!(
        found == most && most >= before,
        "{before} acknowledged, {found} found, to {most}"
    );
    eprintln!("{before} rows acknowledged, {found} found");
    ok(&["restart", "t-rows"]);
    assert_eq!(count(), (found, most));
    ok(&["delete", "--force", "t-rows"]);
    test.end();
}
