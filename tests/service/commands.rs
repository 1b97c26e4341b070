//! Commands in place of units: what they run as, when they are up, and how they end.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::support::{Test, eventually, listed, ok, program, run, says, send};

#[test]
fn a_command_runs_as_it_was_said() {
    let Some(test) = Test::begin("a_command_runs_as_it_was_said") else {
        return;
    };
    // An account that the host does not have; its home and its directory are made.
    ok(&[
        "create",
        "-N",
        "none",
        "--start",
        "--user",
        "t-app",
        "-U",
        "4711",
        "-G",
        "4712",
        "--home",
        "/srv/home",
        "-w",
        "/var/lib/t work",
        "-e",
        r#"A=$x %n "q" \ ä"#,
        "--ready",
        "port=8123",
        "--restart",
        "always",
        "t-cmd",
        "--",
        "python3",
        "-c",
        "import os,socket,time\nprint(os.environ['A'], '|', os.environ['HOME'], '|', os.getcwd(), '|', os.getuid(), os.getgid(), flush=True)\n\
         time.sleep(1)\ns=socket.create_server(('', 8123))\ntime.sleep(9999)",
    ]);
    let logs = ok(&[
        "logs",
        "-u",
        "virt-sandbox-command.service",
        "-o",
        "cat",
        "t-cmd",
    ]);
    assert!(
        logs.contains("$x %n \"q\" \\ ä | /srv/home | /var/lib/t work | 4711 4712"),
        "{logs}"
    );
    assert_eq!(says("t-cmd", "stat -c '%U %a' /srv/home"), "t-app 700");
    // It starts again.
    let main = || {
        says(
            "t-cmd",
            "systemctl show -P MainPID virt-sandbox-command.service",
        )
    };
    let before = main();
    says(
        "t-cmd",
        "kill -9 $(systemctl show -P MainPID virt-sandbox-command.service)",
    );
    eventually("it runs again", || {
        !["0".to_owned(), before.clone()].contains(&main())
    });
    ok(&["delete", "--force", "t-cmd"]);

    // One that ends with success has been started, and its sandbox ends.
    ok(&[
        "create",
        "-N",
        "none",
        "--start",
        "t-cmd",
        "--",
        "sh",
        "-c",
        "echo done",
    ]);
    eventually("the sandbox ends", || {
        listed("t-cmd").unwrap()["state"] == "stopped"
    });
    assert!(ok(&["logs", "t-cmd"]).contains("done"));
    ok(&["delete", "t-cmd"]);

    // One that fails says why, and so does one that is not up.
    for (ready, script, expected) in [
        ("started", "echo oh no; exit 7", ["status 7"].as_slice()),
        (
            "port=99",
            "echo oh no; sleep 1; exit 7",
            &["status 7", "listens on port 99 of TCP"],
        ),
        (
            "notify",
            "echo oh no; exit 0",
            &["protocol", "it says so itself"],
        ),
    ] {
        let failed = run(&[
            "create", "-N", "none", "--start", "--ready", ready, "t-cmd", "--", "sh", "-c", script,
        ]);
        assert!(
            failed.code == 3
                && failed.stderr.contains("| oh no")
                && expected.iter().all(|text| failed.stderr.contains(text)),
            "{failed:?}"
        );
    }
    for (arguments, code, expected) in [
        (
            vec!["t-cmd", "--", "no-such-program"],
            4,
            "no program 'no-such-program'",
        ),
        (
            vec!["--user", "no-such", "t-cmd", "--", "sh"],
            4,
            "--uid N makes one",
        ),
        (
            vec!["-e", "1=x", "t-cmd", "--", "sh"],
            1,
            "'1' is not a name",
        ),
        (
            vec!["--ready", "port=0", "t-cmd", "--", "sh"],
            2,
            "'port=0' does not say",
        ),
        (
            vec!["-u", "apache2", "t-cmd", "--", "sh"],
            2,
            "cannot be used with",
        ),
        (
            vec!["--user", "root", "-u", "apache2", "t-cmd"],
            2,
            "--user",
        ),
        (vec!["t-cmd"], 2, "--unitfile"),
    ] {
        let refused = run(&[&["create", "-N", "none"], arguments.as_slice()].concat());
        assert!(
            refused.code == code && refused.stderr.contains(expected),
            "{refused:?}"
        );
    }
    test.end();
}

#[test]
fn how_a_command_did_is_said_that_was_over_before_anybody_looked() {
    let Some(test) = Test::begin("how_a_command_did_is_said_that_was_over_before_anybody_looked")
    else {
        return;
    };
    let is_running = || listed("t-over").is_some_and(|listed| listed["state"] == "running");
    for (script, code, expected) in [
        ("sleep 1; echo oh no; exit 7", 3, ["status 7", "| oh no"]),
        ("sleep 1; exit 0", 0, ["", ""]),
    ] {
        ok(&["create", "-N", "none", "t-over", "--", "sh", "-c", script]);
        let mut start = program();
        start.args(["start", "t-over"]).stderr(Stdio::piped());
        let start = start.spawn().unwrap();
        eventually("it runs", is_running);
        send(&start, Signal::SIGSTOP);
        eventually("it has ended", || !is_running());
        send(&start, Signal::SIGCONT);
        let done = start.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{said}");
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
        ok(&["delete", "t-over"]);
    }
    test.end();
}
