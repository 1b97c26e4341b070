//! Limits, failures, and leftovers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;

use test_harness::{host, libvirtd};

use crate::support::{Test, eventually};

cases! {
    every:
        memory_is_limited,
        processes_are_limited,
        a_name_can_be_used_only_once,
        a_killed_client_ends_its_sandbox;
    containers:
        a_sandbox_survives_a_restart_of_libvirtd,
        twenty_sandboxes_run_at_once,
        no_file_of_libvirt_is_left,
        a_program_knows_its_domain;
}

fn memory_is_limited(test: &Test) {
    let done = test.run(
        &["--memory", "128M"],
        "head -c 1G /dev/zero | tail | wc -c; echo survived",
    );
    assert!(!done.stdout.contains("1073741824"), "{done:?}");
    assert_eq!(
        test.says(
            &["--memory", "512M"],
            "head -c 64M /dev/zero | tail | wc -c"
        ),
        "67108864"
    );
}

fn processes_are_limited(test: &Test) {
    let script = "i=0; while [ $i -lt 100 ]; do sleep 86400 & i=$((i+1)); done; echo all";
    let done = test.run(&["--pids", "30"], script);
    assert!(
        !done.stdout.contains("all") && done.stderr.contains("fork"),
        "{done:?}"
    );
    assert_eq!(test.says(&["--pids", "200"], script), "all");
}

/// Returns the files of libvirt's driver for containers.
fn files_of_libvirt() -> Vec<String> {
    let uri = std::env::var("LIBVIRT_DEFAULT_URI").unwrap();
    let (_, socket) = uri.split_once("socket=").unwrap();
    let directory = socket.replace("libvirt-sock", "lxc");
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "autostart").collect();
    names.sort();
    names
}

fn no_file_of_libvirt_is_left(test: &Test) {
    let before = files_of_libvirt();
    for status in [0, 3] {
        let mut command = test.unnamed();
        command.args(["--", "sh", "-c", &format!("exit {status}")]);
        let done = host::finish(command, b"").unwrap();
        assert_eq!(done.code, status, "{done:?}");
    }
    let mut command = test.unnamed();
    command.args(["--timeout", "1", "--", "sleep", "86400"]);
    assert_eq!(host::finish(command, b"").unwrap().code, 124);
    assert_eq!(files_of_libvirt(), before);
}

fn a_program_knows_its_domain(test: &Test) {
    let name = test.name();
    let script = "echo $LIBVIRT_LXC_NAME; echo $LIBVIRT_LXC_UUID | wc -c";
    let mut command = test.unnamed();
    command.args(["-n", &name, "--", "sh", "-c", script]);
    let done = host::finish(command, b"").unwrap();
    assert_eq!(done.stdout, format!("{name}\n37\n"), "{done:?}");
    assert_eq!(
        test.says(&["-e", "LIBVIRT_LXC_NAME=own"], "echo $LIBVIRT_LXC_NAME"),
        "own"
    );
}

/// Starts a sandbox with this name, and waits until its command runs.
fn waiting(test: &Test, name: &str) -> Child {
    let mut command = test.unnamed();
    command.args(["-n", name, "--", "sh", "-c", "echo ready; exec sleep 86400"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn a_name_can_be_used_only_once(test: &Test) {
    let name = test.name();
    let mut first = waiting(test, &name);
    let mut command = test.unnamed();
    command.args(["-n", &name, "--", "true"]);
    let done = host::finish(command, b"").unwrap();
    assert_eq!(done.code, 125, "{done:?}");
    assert!(
        done.stderr.contains(&format!("'{name}'")) && done.stderr.lines().count() == 1,
        "{done:?}"
    );
    assert!(
        first.try_wait().unwrap().is_none(),
        "the first one is as it was"
    );
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(143));
    // The name can be used again.
    let mut command = test.unnamed();
    command.args(["-n", &name, "--", "true"]);
    assert_eq!(host::finish(command, b"").unwrap().code, 0);
}

fn a_killed_client_ends_its_sandbox(test: &Test) {
    let name = test.name();
    let mut client = waiting(test, &name);
    client.kill().unwrap();
    client.wait().unwrap();
    // The next command cleans up what the killed one could not.
    assert_eq!(test.run(&[], "true").code, 0);
    test.assert_clean();
    let mut command = test.unnamed();
    command.args(["-n", &name, "--", "true"]);
    assert_eq!(host::finish(command, b"").unwrap().code, 0);
}

fn a_sandbox_survives_a_restart_of_libvirtd(test: &Test) {
    let go = test.text("go");
    let script = format!("echo ready; until [ -e {go} ]; do sleep 0.05; done; echo more; exit 5");
    // In a bind mount, whose changes are seen at once; the root's overlay may cache that a file is missing.
    let bind = format!("host-bind:{0}={0}", test.directory().display());
    let mut command = test.shell(&["-m", &bind], &script);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    libvirtd::restart().unwrap();
    fs::write(&go, "").unwrap();
    output.read_line(&mut line).unwrap();
    // libvirt may end it with SIGTERM. The status must say so in any case.
    let ended = (child.wait().unwrap().code(), line.as_str());
    let lives_on = ended == (Some(5), "ready\nmore\n");
    assert!(lives_on || matches!(ended.0, Some(125 | 143)), "{ended:?}");
    eventually("libvirtd answers", || test.run(&[], "true").code == 0);
}

fn twenty_sandboxes_run_at_once(test: &Test) {
    thread::scope(|scope| {
        for number in 0..20 {
            let command = test.shell(
                &["-m", "host-bind:/mnt="],
                &format!("echo {number} >/mnt/a; cat /mnt/a; exit {number}"),
            );
            scope.spawn(move || {
                let done = host::finish(command, b"").unwrap();
                assert_eq!(
                    (done.code, done.stdout),
                    (number, format!("{number}\n")),
                    "{}",
                    done.stderr
                );
            });
        }
    });
}
