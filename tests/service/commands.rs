//! Commands in place of units: their account, when they count as started, and their exit status.

use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::support::{Test, eventually, listed, ok, program, run, says, send};

#[test]
fn a_command_runs_with_its_account_and_options() {
    let Some(test) = Test::begin("a_command_runs_with_its_account_and_options") else {
        return;
    };
    // The host lacks the account; its home and its directory are created.
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
    // The sandbox can start again.
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

    // A command that has succeeded counts as started, and its sandbox stops.
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

    // A failed command is reported with the reason, and so is one that never becomes ready.
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
fn the_result_of_a_short_command_is_reported() {
    let Some(test) = Test::begin("the_result_of_a_short_command_is_reported") else {
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

#[test]
fn the_host_unit_has_the_status_of_a_command_that_fails_at_once() {
    let Some(test) = Test::begin("the_host_unit_has_the_status_of_a_command_that_fails_at_once")
    else {
        return;
    };
    let fails = ["--", "sh", "-c", "exit 7"];
    ok(&[&["create", "-N", "none", "t-seven"], &fails[..]].concat());
    let done = run(&["run", "t-seven"]);
    assert_eq!(done.code, 7, "{done:?}");
    assert!(done.stderr.contains("status 7"), "{done:?}");
    ok(&["delete", "t-seven"]);
    test.end();
}
