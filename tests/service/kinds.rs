//! Every verb on every kind of sandbox: a unit with its tree in a directory, in a raw image, in a qcow2 image, and a command.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_harness::libvirtd;

use crate::support::{
    HostFile, TREES, Test, eventually, in_tree, listed, ok, output, program, run, says, send,
};

/// Records its starts and its reloads in its state.
const SCRIPT: &str = "#!/bin/sh\ntrap 'echo reloaded >> /var/lib/t-kind/log' HUP\necho started >> /var/lib/t-kind/log\n\
                      echo ready\nwhile :; do sleep 1 & wait $!; done\n";
const PROGRAM: &str = "/opt/t-kind/bin/t-kind";
const UNIT: &str = "[Service]\nExecStart=/opt/t-kind/bin/t-kind\nExecReload=/bin/kill -HUP $MAINPID\nStateDirectory=t-kind\n";

struct Kind {
    name: &'static str,
    /// Arguments of `create`.
    create: &'static [&'static str],
    /// Arguments after the name.
    command: &'static [&'static str],
    unit: &'static str,
    format: Option<&'static str>,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "unit",
        create: &["-u", "t-kind.service"],
        command: &[],
        unit: "t-kind.service",
        format: None,
    },
    Kind {
        name: "image-raw",
        create: &["-u", "t-kind.service", "-i", "64M"],
        command: &[],
        unit: "t-kind.service",
        format: Some("raw"),
    },
    Kind {
        name: "image-qcow2",
        create: &[
            "-u",
            "t-kind.service",
            "-i",
            "320M",
            "--format",
            "qcow2",
            "--filesystem",
            "xfs",
        ],
        command: &[],
        unit: "t-kind.service",
        format: Some("qcow2"),
    },
    Kind {
        name: "command",
        create: &["--ready", "output", "--restart", "always"],
        command: &[
            "--",
            "sh",
            "-c",
            "mkdir -p /var/lib/t-kind; exec /opt/t-kind/bin/t-kind",
        ],
        unit: "virt-sandbox-command.service",
        format: None,
    },
];

/// Verbs and their results, one line each.
#[derive(Default)]
struct Seen(Vec<(&'static str, String)>);

impl Seen {
    fn of(&mut self, verb: &'static str, what: impl Into<String>) {
        self.0.push((verb, what.into()));
    }
}

fn log(name: &str) -> String {
    says(name, "tr '\\n' ' ' < /var/lib/t-kind/log")
}

fn image(name: &str, kind: &Kind) -> Option<PathBuf> {
    kind.format
        .map(|format| Path::new(TREES).join(format!("{name}.{format}")))
}

fn every_verb(kind: &Kind) {
    let Some(test) = Test::begin(kind.name) else {
        return;
    };
    let program = HostFile::script(PROGRAM, SCRIPT);
    let unit = HostFile::unit("t-kind.service", UNIT);
    let conf = HostFile::new("/etc/t-kind/conf", "old\n");
    let both = HostFile::new("/etc/t-kind/both", "old\n");
    let mut seen = Seen::default();
    let mut create = vec!["create", "-N", "none"];
    create.extend(kind.create);
    create.push("t-kind");
    create.extend(kind.command);
    if kind.command.contains(&"sh") {
        // `create` copies only the shell of such a command, so the script is mounted.
        create.splice(1..1, ["-m", "host-bind:/opt/t-kind=/opt/t-kind,ro"]);
    }
    ok(&create);
    match image("t-kind", kind) {
        Some(image) => {
            let metadata = fs::metadata(&image).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert!(metadata.blocks() * 512 < 32 << 20, "it has no holes");
            assert!(!in_tree("t-kind", "etc").exists());
            seen.of("create", format!("{} KiB used", metadata.blocks() / 2));
        }
        None => {
            assert!(in_tree("t-kind", "etc/passwd").exists());
            seen.of("create", "a directory");
        }
    }
    ok(&["start", "t-kind"]);
    seen.of("start", log("t-kind"));
    let status = ok(&["status", "t-kind"]);
    assert!(
        status.contains(kind.unit) && status.contains("active (running)"),
        "{status}"
    );
    seen.of("status", "active (running)");
    assert_eq!(listed("t-kind").unwrap()["state"], "running");
    seen.of("list", "running");
    let inspected: serde_json::Value =
        serde_json::from_str(&ok(&["inspect", "--format", "json", "t-kind"])).unwrap();
    let has_command = inspected["config"]["command"].is_object();
    assert_eq!(has_command, !kind.command.is_empty(), "{inspected}");
    assert_eq!(
        inspected["config"]["image"].is_object(),
        kind.format.is_some()
    );
    seen.of("inspect", if has_command { "command" } else { "units" });
    says(
        "t-kind",
        "echo mine > /var/lib/t-kind/mine; chown daemon /var/lib/t-kind/mine",
    );
    seen.of("execute", says("t-kind", "hostname"));
    let logs = ok(&["logs", "-u", kind.unit, "t-kind"]);
    assert!(logs.contains("ready"), "{logs}");
    seen.of("logs", "ready");
    let reload = run(&["reload", "t-kind"]);
    if kind.command.is_empty() {
        assert_eq!(reload.code, 0, "{reload:?}");
        eventually("the reload is noted", || {
            log("t-kind") == "started reloaded"
        });
        seen.of("reload", "reloaded");
    } else {
        // A command has no way to reload its configuration.
        assert!(
            reload.code == 1 && reload.stderr.contains("can reload"),
            "{reload:?}"
        );
        seen.of("reload", "refused: it cannot");
    }
    ok(&["restart", "t-kind"]);
    assert!(
        log("t-kind").ends_with("started started") || log("t-kind").ends_with("reloaded started")
    );
    seen.of("restart", log("t-kind"));
    assert_eq!(ok(&["set", "t-kind", "memory=300M"]), "");
    let stats: serde_json::Value =
        serde_json::from_str(&ok(&["stats", "--format", "json", "t-kind"])).unwrap();
    assert_eq!(stats[0]["memory_limit"], 300 << 20, "{stats}");
    seen.of("set", "300M");
    seen.of("stats", format!("{} processes", stats[0]["processes"]));
    seen.of("upgrade", upgraded("t-kind"));
    ok(&["stop", "t-kind"]);
    assert_eq!(listed("t-kind").unwrap()["state"], "stopped");
    assert_released("t-kind");
    seen.of("stop", "stopped");
    seen.of("upgrade, stopped", upgraded_stopped("t-kind"));
    assert_released("t-kind");
    assert!(ok(&["logs", "-u", kind.unit, "t-kind"]).contains("ready"));
    seen.of("logs, stopped", "ready");

    ok(&["clone", "t-kind", "t-kind-2"]);
    ok(&["rename", "t-kind-2", "t-kind-3"]);
    assert_eq!(
        image("t-kind-2", kind).map(|image| image.exists()),
        kind.format.map(|_| false)
    );
    assert_eq!(
        image("t-kind-3", kind).map(|image| image.exists()),
        kind.format.map(|_| true)
    );
    ok(&["start", "t-kind-3"]);
    let identity = |name: &str| {
        says(
            name,
            "stat -c %U /var/lib/t-kind/mine; hostname; cat /etc/hostname",
        )
    };
    assert_eq!(identity("t-kind-3"), "daemon\nt-kind-3\nt-kind-3");
    seen.of("clone, rename", "an identity of its own");
    ok(&["delete", "--force", "t-kind-3"]);

    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar");
    let archive = archive.to_str().unwrap();
    ok(&["export", "t-kind", "-o", archive]);
    let members = output("tar", &["--list", "--file", archive]);
    assert!(members.contains("tree/var/lib/t-kind/mine") && !members.contains("lost+found"));
    seen.of("export", format!("{} members", members.lines().count()));
    let before = ok(&["inspect", "t-kind"]);
    ok(&["delete", "t-kind"]);
    seen.of("delete", "nothing left");
    // The administrator must allow an archive's mounts of the host.
    ok(&["import", "--trust-mounts", "--start", archive]);
    assert_eq!(ok(&["inspect", "t-kind"]), before);
    assert_eq!(identity("t-kind"), "daemon\nt-kind\nt-kind");
    seen.of("import", log("t-kind"));
    ok(&["delete", "--force", "t-kind"]);
    assert_released("t-kind");
    drop((program, unit, both, conf));
    for (verb, what) in &seen.0 {
        println!("| {:<16} | {:<11} | {what}", verb, kind.name);
    }
    test.end();
}

/// Upgrades a running sandbox after one file has changed on the host and one on both sides.
fn upgraded(name: &str) -> String {
    says(name, "echo mine > /etc/t-kind/both");
    for file in ["conf", "both"] {
        fs::write(format!("/etc/t-kind/{file}"), "new\n").unwrap();
    }
    let preview = ok(&["upgrade", "--dry-run", name]);
    assert!(preview.contains("-old\n+new\n"), "{preview}");
    assert_eq!(says(name, "cat /etc/t-kind/conf"), "old");
    let done = ok(&["upgrade", name]);
    assert!(done.contains("restart it"), "{done}");
    let now = "cd /etc/t-kind; cat conf both both.virt-sandbox-new | tr '\\n' ' '";
    assert_eq!(says(name, now), "new mine new");
    let starts = || log(name).matches("started").count();
    let before = starts();
    let done = ok(&["upgrade", "--all", "--restart"]);
    assert!(done.contains("restarted"), "{done}");
    assert_eq!(
        (says(name, now), starts()),
        ("new mine new".to_owned(), before + 1)
    );
    let done = ok(&["upgrade", "--all", "--restart"]);
    assert_eq!(
        (done, starts()),
        (format!("{name}: up to date\n"), before + 1)
    );
    "updated, conflict".to_owned()
}

/// Upgrades a stopped sandbox.
fn upgraded_stopped(name: &str) -> String {
    fs::write("/etc/t-kind/conf", "newer\n").unwrap();
    let done = ok(&["upgrade", name]);
    assert!(done.contains("updated   /etc/t-kind/conf"), "{done}");
    ok(&["start", name]);
    let text = says(name, "cat /etc/t-kind/conf");
    ok(&["stop", name]);
    assert_eq!(text, "newer");
    text
}

/// Checks that no process of the host uses an image, and that no mount of it is left.
fn assert_released(name: &str) {
    let attached = || {
        output(
            "losetup",
            &["--list", "--noheadings", "--output", "BACK-FILE"],
        )
    };
    eventually("its loop device is released", || {
        !attached().contains(&format!("/{name}"))
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/{name}")), "{mounts}");
}

#[test]
#[ignore = "slow: make test-slow"]
fn every_verb_works_on_a_unit() {
    every_verb(&KINDS[0]);
}

#[test]
fn every_verb_works_on_a_raw_image() {
    every_verb(&KINDS[1]);
}

#[test]
#[ignore = "slow: make test-slow"]
fn every_verb_works_on_a_qcow2_image() {
    every_verb(&KINDS[2]);
}

#[test]
#[ignore = "slow: make test-slow"]
fn every_verb_works_on_a_command() {
    every_verb(&KINDS[3]);
}

#[test]
#[ignore = "slow: make test-slow"]
fn an_image_is_released_however_its_sandbox_ends() {
    let Some(test) = Test::begin("an_image_is_released_however_its_sandbox_ends") else {
        return;
    };
    let program_file = HostFile::script(PROGRAM, SCRIPT);
    let unit = HostFile::unit("t-kind.service", UNIT);
    let create = |format: &'static str, size: &'static str| {
        [
            "create",
            "-N",
            "none",
            "-u",
            "t-kind.service",
            "-i",
            size,
            "--format",
            format,
            "t-kill",
        ]
    };
    // Too small: the message has the size needed, and nothing is left.
    let refused = run(&create("raw", "1M"));
    assert!(
        refused.code == 1 && refused.stderr.contains("needs"),
        "{refused:?}"
    );
    let foreign = HostFile::new(&format!("{TREES}/t-kill.raw"), "mine");
    let refused = run(&create("raw", "64M"));
    assert!(
        refused.code == 5 && refused.stderr.contains("is there already"),
        "{refused:?}"
    );
    assert_eq!(
        fs::read_to_string(format!("{TREES}/t-kill.raw")).unwrap(),
        "mine"
    );
    drop(foreign);
    assert!(!in_tree("t-kill", "").exists() && listed("t-kill").is_none());
    for format in ["raw", "qcow2"] {
        // An interrupted create.
        let image = Path::new(TREES).join(format!("t-kill.{format}"));
        let mut child = program()
            .args(create(format, "64M"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the image appears", || image.exists());
        send(&child, Signal::SIGKILL);
        child.wait().unwrap();
        assert_released("t-kill");
        ok(&["list"]);
        assert!(!image.exists() && !in_tree("t-kill", "").exists());

        // The container's controller is killed.
        ok(&create(format, "64M"));
        ok(&["start", "t-kill"]);
        says(
            "t-kill",
            "echo kept > /var/lib/t-kind/kept; sync; ls /dev/sda 2>&1 | grep -q 'cannot access'",
        );
        let uri = std::env::var("LIBVIRT_DEFAULT_URI").unwrap();
        let running = output("virsh", &["-c", &uri, "list", "--id"]);
        let paused = libvirtd::pause().unwrap();
        for id in running.split_whitespace() {
            kill(Pid::from_raw(id.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
        // Also if libvirtd does not see it.
        assert_released("t-kill");
        drop(paused);
        eventually("it has ended", || {
            listed("t-kill").unwrap()["state"] == "stopped"
        });
        ok(&["start", "t-kill"]);
        assert_eq!(says("t-kill", "cat /var/lib/t-kind/kept"), "kept");
        ok(&["delete", "--force", "t-kill"]);
    }
    drop((program_file, unit));
    test.end();
}
