//! The host's unit of a sandbox, and restarts of libvirtd.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_harness::libvirtd;

use crate::support::{
    HostFile, Test, address, eventually, finish, get, inside, listed, ok, output, program, run,
    says, send,
};

#[test]
fn systemd_accepts_the_unit() {
    let Some(test) = Test::begin("systemd_accepts_the_unit") else {
        return;
    };
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: systemd_accepts_the_unit: there is no systemd-analyze");
        return;
    }
    ok(&["create", "-N", "none", "-u", "apache2.service", "t-unit"]);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    verify.arg("/etc/systemd/system/t-unit_sandbox.service");
    let done = finish(verify, "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    ok(&["delete", "t-unit"]);
    test.end();
}

/// Receiver of sd_notify(3) messages, in place of the service manager.
struct Manager {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { socket, dir }
    }

    fn run(&self, name: &str) -> Child {
        program()
            .args(["run", name])
            .env("NOTIFY_SOCKET", self.dir.path().join("notify"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Returns whether `line` arrives within so many seconds.
    fn is_told(&self, line: &str, seconds: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut message = [0; 4096];
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            match self.socket.recv(&mut message) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&message[..length]);
                    if text.lines().any(|told| told == line) {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
        false
    }
}

#[test]
fn run_reports_readiness_and_stops_at_sigterm() {
    let Some(test) = Test::begin("run_reports_readiness_and_stops_at_sigterm") else {
        return;
    };
    let unit = HostFile::unit(
        "t-run.service",
        "[Service]\nExecStartPre=/bin/sleep 3\nExecStart=/bin/sleep infinity\n\
         ExecStop=/bin/sh -c 'echo stopped-well'\n",
    );
    ok(&["create", "-N", "none", "-u", "t-run.service", "t-run"]);
    let manager = Manager::new();
    let mut child = manager.run("t-run");
    assert!(
        !manager.is_told("READY=1", 2),
        "told before the unit was up"
    );
    assert!(manager.is_told("READY=1", 30));
    assert_eq!(says("t-run", "systemctl is-active t-run.service"), "active");
    send(&child, Signal::SIGTERM);
    assert!(manager.is_told("STOPPING=1", 10));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(listed("t-run").unwrap()["state"], "stopped");
    assert!(ok(&["logs", "t-run"]).contains("stopped-well"));

    // A client of libvirt stops it, too.
    let uri = std::env::var("LIBVIRT_DEFAULT_URI").unwrap();
    let mut child = manager.run("t-run");
    assert!(manager.is_told("READY=1", 30));
    output("virsh", &["-c", &uri, "shutdown", "t-run"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(listed("t-run").unwrap()["state"], "stopped");

    // A sandbox that powers itself off is no success: the host's unit must start it again.
    let mut child = manager.run("t-run");
    assert!(manager.is_told("READY=1", 30));
    run(&[
        "execute",
        "t-run",
        "--",
        "systemctl",
        "--no-block",
        "poweroff",
    ]);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let failed = listed("t-run").unwrap();
    assert_eq!(failed["state"], "failed");
    assert!(ok(&["status", "t-run"]).contains("has ended by itself"));
    // A new start clears the status, whoever started it.
    output("virsh", &["-c", &uri, "start", "t-run"]);
    eventually("it is up", || inside("t-run", "true").code == 0);
    output("virsh", &["-c", &uri, "destroy", "t-run"]);
    assert_eq!(listed("t-run").unwrap()["state"], "stopped");
    ok(&["start", "t-run"]);
    assert_eq!(listed("t-run").unwrap()["state"], "running");
    ok(&["stop", "t-run"]);
    assert_eq!(listed("t-run").unwrap()["state"], "stopped");
    ok(&["delete", "t-run"]);
    drop(unit);
    test.end();
}

#[test]
fn a_killed_run_leaves_the_sandbox_running() {
    let Some(test) = Test::begin("a_killed_run_leaves_the_sandbox_running") else {
        return;
    };
    let unit = HostFile::unit(
        "t-run.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    );
    ok(&["create", "-N", "none", "-u", "t-run.service", "t-run"]);
    let manager = Manager::new();
    let mut child = manager.run("t-run");
    assert!(manager.is_told("READY=1", 30));
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let children = || fs::read_to_string(&children).unwrap();
    eventually("it follows the journal", || !children().is_empty());
    let followers = children();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the journal is followed no more", || {
        let mut pids = followers.split_whitespace();
        pids.all(|pid| !Path::new("/proc").join(pid).exists())
    });
    assert_eq!(says("t-run", "systemctl is-active t-run.service"), "active");
    ok(&["stop", "t-run"]);
    ok(&["delete", "t-run"]);
    drop(unit);
    test.end();
}

/// Image of a sandbox, its command, the exit status of `run`, and its message.
type Ending = (Option<&'static str>, &'static str, i32, &'static str);

#[test]
fn run_returns_the_status_of_a_one_time_command() {
    run_ends_as(
        "run_returns_the_status_of_a_one_time_command",
        &[
            (None, "sleep 3", 0, ""),
            (Some("64M"), "sleep 3; exit 7", 7, "exit-code, status 7"),
        ],
    );
}

#[test]
#[ignore = "slow: make test-slow"]
fn run_returns_the_status_of_a_killed_command() {
    run_ends_as(
        "run_returns_the_status_of_a_killed_command",
        &[
            (None, "sleep 3; exit 7", 7, "exit-code, status 7"),
            (None, "sleep 3; kill -9 $$", 137, "signal, signal 9"),
            (None, "sleep 999", 1, "before its command"),
        ],
    );
}

fn run_ends_as(test: &str, endings: &[Ending]) {
    let Some(test) = Test::begin(test) else {
        return;
    };
    let manager = Manager::new();
    for (image, script, status, words) in endings {
        let mut create = vec!["create", "-N", "none"];
        create.extend(image.iter().flat_map(|size| ["-i", size]));
        create.extend(["t-run", "--", "sh", "-c", script]);
        ok(&create);
        let child = manager.run("t-run");
        assert!(manager.is_told("READY=1", 60), "{script}");
        if script.ends_with("999") {
            let uri = std::env::var("LIBVIRT_DEFAULT_URI").unwrap();
            output("virsh", &["-c", &uri, "destroy", "t-run"]);
        }
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(*status), "{script}: {said}");
        assert!(said.contains(*words), "{script}: {said}");
        let one = listed("t-run").unwrap();
        let state = if *status == 0 { "stopped" } else { "failed" };
        assert_eq!(one["state"], state, "{one}");
        assert!(ok(&["status", "t-run"]).contains(words));
        // A renamed sandbox does not report the exit status of its old name.
        ok(&["rename", "t-run", "t-ran"]);
        assert_eq!(listed("t-ran").unwrap()["state"], "stopped");
        ok(&["delete", "t-ran"]);
    }
    test.end();
}

#[test]
fn run_can_be_stopped_before_the_units_are_up() {
    let Some(test) = Test::begin("run_can_be_stopped_before_the_units_are_up") else {
        return;
    };
    let unit = HostFile::unit(
        "t-run.service",
        "[Service]\nType=notify\nExecStart=/bin/sleep infinity\n",
    );
    ok(&["create", "-N", "none", "-u", "t-run.service", "t-run"]);
    let manager = Manager::new();
    let mut child = manager.run("t-run");
    eventually("it is on its way", || {
        let shown = inside("t-run", "systemctl is-active t-run.service");
        shown.stdout.trim() == "activating"
    });
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(listed("t-run").unwrap()["state"], "stopped");
    assert!(!manager.is_told("READY=1", 0));
    ok(&["delete", "t-run"]);
    drop(unit);
    test.end();
}

#[test]
fn run_does_not_report_readiness_if_units_fail() {
    let Some(test) = Test::begin("run_does_not_report_readiness_if_units_fail") else {
        return;
    };
    let unit = HostFile::unit("t-run.service", "[Service]\nExecStart=/bin/false\n");
    ok(&["create", "-N", "none", "-u", "t-run.service", "t-run"]);
    let manager = Manager::new();
    let mut child = manager.run("t-run");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(!manager.is_told("READY=1", 0));
    ok(&["delete", "t-run"]);
    drop(unit);
    test.end();
}

#[test]
fn a_sandbox_outlives_libvirtd() {
    let Some(test) = Test::begin("a_sandbox_outlives_libvirtd") else {
        return;
    };
    ok(&["create", "--start", "-u", "apache2.service", "t-stay"]);
    let before = (
        address("t-stay"),
        says("t-stay", "systemctl show -P MainPID apache2.service"),
    );
    libvirtd::restart().unwrap();
    let one = listed("t-stay").unwrap();
    assert_eq!(
        (&one["state"], &one["addresses"][0]),
        (&"running".into(), &before.0.as_str().into())
    );
    assert_eq!(
        says("t-stay", "systemctl show -P MainPID apache2.service"),
        before.1
    );
    eventually("the page is served", || {
        get(&format!("http://{}/", before.0))
            .stdout
            .contains("<html")
    });
    ok(&["stop", "t-stay"]);
    ok(&["start", "t-stay"]);
    ok(&["delete", "--force", "t-stay"]);
    test.end();
}
