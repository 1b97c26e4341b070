//! Units of an administrator, which belong to no package: working and failing ones.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::{HostFile, Test, address, eventually, get, in_tree, listed, ok, run, says};

#[test]
fn a_unit_that_fails_is_shown_with_its_journal() {
    let Some(test) = Test::begin("a_unit_that_fails_is_shown_with_its_journal") else {
        return;
    };
    let fails = "ExecStart=/bin/sh -c 'echo the-reason >&2; exit 42'";
    let crashes = "ExecStart=/bin/sh -c 'echo the-reason >&2; sleep 0.2; exit 42'\nRestart=always";
    for (what, service, words) in [
        (
            "oneshot",
            format!("Type=oneshot\n{fails}"),
            &["status 42"][..],
        ),
        ("simple", format!("Type=simple\n{fails}"), &["status 42"]),
        ("notify", format!("Type=notify\n{fails}"), &[]),
        (
            "before",
            format!("ExecStartPre=/bin/sh -c 'echo the-reason >&2; exit 1'\n{crashes}"),
            &[],
        ),
        (
            "loop",
            format!("{crashes}\nRestartSec=50ms"),
            &["status 42"],
        ),
        (
            "slow loop",
            format!("{crashes}\nRestartSec=400ms"),
            &["status 42"],
        ),
    ] {
        eprintln!("{what}");
        let unit = HostFile::unit("t-fail.service", &format!("[Service]\n{service}\n"));
        let done = run(&[
            "create",
            "--start",
            "-N",
            "none",
            "-u",
            "t-fail.service",
            "t-fail",
        ]);
        assert_eq!(done.code, 3, "{what}: {done:?}");
        for word in [&["t-fail.service", "the-reason"], words].concat() {
            assert!(
                done.stderr.contains(word),
                "{what}: '{word}' is not in {done:?}"
            );
        }
        assert!(!done.stderr.contains("--timeout"), "{what}: {done:?}");
        drop(unit);
        test.assert_clean();
    }
    // A restart loop, and a unit whose program is missing.
    for (what, unit, word) in [
        (
            "endless loop",
            format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\n{crashes}\nRestartSec=50ms\n"),
            "the-reason",
        ),
        (
            "no program",
            "[Service]\nExecStart=/srv/t-nowhere/run\n".to_owned(),
            "/srv/t-nowhere/run",
        ),
    ] {
        eprintln!("{what}");
        let unit = HostFile::unit("t-fail.service", &unit);
        let done = run(&[
            "create",
            "--start",
            "-N",
            "none",
            "-u",
            "t-fail.service",
            "t-fail",
        ]);
        assert_ne!(done.code, 0, "{what}: {done:?}");
        assert!(done.stderr.contains(word), "{what}: {done:?}");
        drop(unit);
        test.assert_clean();
    }
    test.end();
}

#[test]
fn a_unit_that_takes_too_long_is_reported() {
    let Some(test) = Test::begin("a_unit_that_takes_too_long_is_reported") else {
        return;
    };
    let unit = HostFile::unit(
        "t-late.service",
        "[Service]\nType=notify\nExecStart=/bin/sleep infinity\n",
    );
    ok(&["create", "-N", "none", "-u", "t-late.service", "t-late"]);
    let done = run(&["start", "--timeout", "3", "t-late"]);
    assert_eq!(done.code, 3, "{done:?}");
    for word in ["t-late.service", "activating", "--timeout"] {
        assert!(done.stderr.contains(word), "{done:?}");
    }
    // Without `create --start` the sandbox stays for inspection.
    assert_eq!(listed("t-late").unwrap()["state"], "stopped");
    ok(&["delete", "t-late"]);
    drop(unit);
    test.end();
}

#[test]
fn an_application_below_srv_is_copied() {
    let Some(test) = Test::begin("an_application_below_srv_is_copied") else {
        return;
    };
    let program = HostFile::script(
        "/srv/t-app/run.sh",
        "#!/bin/sh\nexec /usr/bin/python3 -m http.server --bind 0.0.0.0 8000\n",
    );
    let page = HostFile::new("/srv/t-app/page", "from srv\n");
    let unit = HostFile::unit(
        "t-app.service",
        "[Service]\nWorkingDirectory=/srv/t-app\nExecStart=/srv/t-app/run.sh\n",
    );
    ok(&["create", "--start", "-u", "t-app.service", "t-app"]);
    let url = format!("http://{}:8000/page", address("t-app"));
    // `Type=simple`: systemd does not know when it listens.
    eventually("the page is served", || get(&url).stdout == "from srv\n");
    std::fs::write(in_tree("t-app", "srv/t-app/page"), "changed\n").unwrap();
    assert_eq!(get(&url).stdout, "changed\n");
    assert_eq!(
        std::fs::read_to_string("/srv/t-app/page").unwrap(),
        "from srv\n"
    );
    ok(&["delete", "--force", "t-app"]);
    drop((program, page, unit));
    test.end();
}

/// The manager reads a credential as root, and mounts it where only the unit's account can read it.
#[test]
fn a_unit_gets_credentials_that_only_root_reads() {
    let Some(test) = Test::begin("a_unit_gets_credentials_that_only_root_reads") else {
        return;
    };
    let secret = HostFile::new("/etc/t-secret/key", "42");
    let other = HostFile::new("/etc/t-secret/other", "43");
    for (path, mode) in [
        ("/etc/t-secret", 0o700),
        ("/etc/t-secret/key", 0o600),
        ("/etc/t-secret/other", 0o600),
    ] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let unit = HostFile::unit(
        "t-secret.service",
        "[Service]\nDynamicUser=yes\nPrivateUsers=yes\nRuntimeDirectory=t-secret\n\
         LoadCredential=answer:/etc/t-secret/key\n\
         ExecStart=/bin/sh -c 'cp %d/answer /run/t-secret/answer && exec sleep infinity'\n",
    );
    let create = ["create", "-N", "none", "-u", "t-secret.service", "t-secret"];
    ok(&create);
    assert!(in_tree("t-secret", "etc/t-secret/key").exists());
    assert!(!in_tree("t-secret", "etc/t-secret/other").exists());
    ok(&["start", "t-secret"]);
    let answer = "until cat /run/t-secret/answer; do sleep 0.1; done";
    assert_eq!(says("t-secret", answer).trim(), "42");
    ok(&["delete", "--force", "t-secret"]);
    drop((unit, other, secret));
    test.end();
}

#[test]
fn template_instances_know_their_name() {
    let Some(test) = Test::begin("template_instances_know_their_name") else {
        return;
    };
    let unit = HostFile::unit(
        "t-inst@.service",
        "[Service]\nType=exec\nStateDirectory=t-inst\nExecStart=/bin/sh -c 'echo %i > /var/lib/t-inst/%i; exec sleep infinity'\n",
    );
    ok(&[
        "create",
        "--start",
        "-N",
        "none",
        "-u",
        "t-inst@blue.service",
        "-u",
        "t-inst@red.service",
        "t-inst",
    ]);
    eventually("both have written", || {
        says("t-inst", "cat /var/lib/t-inst/*") == "blue\nred"
    });
    // A template without an instance is that of the sandbox's name.
    ok(&["create", "-N", "none", "-u", "t-inst@.service", "t-bare"]);
    let config = ok(&["inspect", "t-bare"]);
    assert!(config.contains("\"t-inst@t-bare.service\""), "{config}");
    ok(&["start", "t-bare"]);
    eventually("the instance has its name", || {
        says("t-bare", "cat /var/lib/t-inst/*") == "t-bare"
    });
    ok(&["delete", "--force", "t-bare"]);
    ok(&["delete", "--force", "t-inst"]);
    drop(unit);
    test.end();
}

#[test]
fn a_socket_starts_its_service() {
    let Some(test) = Test::begin("a_socket_starts_its_service") else {
        return;
    };
    let units = [
        HostFile::unit(
            "t-echo.socket",
            "[Socket]\nListenStream=0.0.0.0:7777\nAccept=yes\n",
        ),
        HostFile::unit(
            "t-echo@.service",
            "[Service]\nExecStart=/bin/cat\nStandardInput=socket\nStandardOutput=socket\n",
        ),
    ];
    ok(&["create", "--start", "-u", "t-echo.socket", "t-echo"]);
    let mut stream = TcpStream::connect((address("t-echo"), 7777)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
    ok(&["delete", "--force", "t-echo"]);
    drop(units);
    test.end();
}

#[test]
fn a_timer_starts_its_service() {
    let Some(test) = Test::begin("a_timer_starts_its_service") else {
        return;
    };
    let units = [
        HostFile::unit("t-tick.timer", "[Timer]\nOnActiveSec=1s\nAccuracySec=1ms\n"),
        HostFile::unit(
            "t-tick.service",
            "[Service]\nType=oneshot\nStateDirectory=t-tick\nExecStart=/bin/touch /var/lib/t-tick/done\n",
        ),
    ];
    ok(&[
        "create",
        "--start",
        "-N",
        "none",
        "-u",
        "t-tick.timer",
        "t-tick",
    ]);
    let done = in_tree("t-tick", "var/lib/t-tick/done");
    eventually("the timer's service ran", || done.exists());
    ok(&["delete", "--force", "t-tick"]);
    drop(units);
    test.end();
}
