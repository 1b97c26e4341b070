//! Standard streams.

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use test_harness::host;

use crate::support::{Test, eventually};

cases! {
    every:
        no_input_no_output,
        streams_are_separate,
        every_byte_passes,
        every_byte_passes_as_errors,
        input_is_a_pipe_a_file_or_nothing,
        closed_streams_are_empty,
        all_output_arrives_before_the_end,
        unread_input_is_no_failure,
        a_reader_that_goes_away_ends_the_writer,
        output_is_appended_to_a_file,
        a_background_process_is_not_waited_for,
        one_file_for_input_and_output,
        the_command_has_no_other_files;
    containers:
        one_pipe_for_both_keeps_the_order,
        output_that_is_closed_has_ended,
        input_that_is_closed_breaks_the_pipe;
}

/// Returns a shell command that runs the program with the redirections `how`.
fn redirected(command: &Command, how: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$@\" {how}"), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(key, value);
        }
    }
    shell
}

/// Returns every byte value, repeated to more than any buffer holds.
fn all_bytes() -> Vec<u8> {
    (0..=255).cycle().take(3 << 20).collect()
}

fn no_input_no_output(test: &Test) {
    assert_eq!(test.says(&[], "true"), "");
}

chosen! {
    system System: streams_are_separate, every_byte_passes;
}

fn streams_are_separate(test: &Test) {
    let done = test.run_with_input(&[], "cat; echo out; echo err >&2", b"in\n");
    let seen = (done.code, done.stdout.as_str(), done.stderr.as_str());
    assert_eq!(seen, (0, "in\nout\n", "err\n"));
}

fn every_byte_passes(test: &Test) {
    let bytes = all_bytes();
    for input in ["file", "pipe"] {
        let mut command = test.shell(&[], "cat");
        let mut writer = None;
        if input == "file" {
            command.stdin(File::open(test.file("in", &bytes)).unwrap());
        } else {
            let (theirs, mut ours) = pipe().unwrap();
            command.stdin(theirs);
            let bytes = bytes.clone();
            writer = Some(std::thread::spawn(move || ours.write_all(&bytes).unwrap()));
        }
        let output = command.output().unwrap();
        drop(command);
        assert!(
            output.stdout == bytes && output.stderr.is_empty(),
            "{input}"
        );
        if let Some(writer) = writer {
            writer.join().unwrap();
        }
    }
}

fn every_byte_passes_as_errors(test: &Test) {
    let bytes = all_bytes();
    let mut command = test.shell(&[], "cat >&2");
    command.stdin(File::open(test.file("in", &bytes)).unwrap());
    let output = command.output().unwrap();
    assert!(output.stderr == bytes && output.stdout.is_empty());
}

fn input_is_a_pipe_a_file_or_nothing(test: &Test) {
    let file = test.file("in", "text\n");
    for (how, all) in [
        (format!("<'{file}'"), "text\n"),
        ("</dev/null".to_owned(), ""),
        ("<&-".to_owned(), ""),
    ] {
        let output = redirected(&test.shell(&[], "cat"), &how).output().unwrap();
        assert!(output.status.success(), "{how}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), all, "{how}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{how}");
    }
    let done = test.run_with_input(&[], "cat", b"more\n");
    assert_eq!(done.stdout, "more\n");
}

fn closed_streams_are_empty(test: &Test) {
    for how in [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let script = "cat; echo out; echo err >&2; exit 3";
        let output = redirected(&test.shell(&[], script), how).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{how}: {output:?}");
    }
}

fn all_output_arrives_before_the_end(test: &Test) {
    let output = test.shell(&[], "seq 1000000").output().unwrap();
    let lines = output.stdout.split(|byte| *byte == b'\n').count() - 1;
    assert_eq!(lines, 1_000_000);
    assert!(output.stdout.ends_with(b"\n1000000\n"));
    // Last output of a command that kills itself at once.
    let done = test.run(&[], "seq 20000; seq 20000 >&2; kill -9 $$");
    assert_eq!(done.code, 137);
    assert!(done.stdout.ends_with("\n20000\n") && done.stderr.ends_with("\n20000\n"));
}

fn unread_input_is_no_failure(test: &Test) {
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut command = test.shell(&[], "head -n 1");
    command.stdin(yes.stdout.take().unwrap());
    let output = command.output().unwrap();
    // This drops our copy of the pipe.
    drop(command);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "y\n");
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
    assert_eq!(yes.wait().unwrap().signal(), Some(13));
}

fn a_reader_that_goes_away_ends_the_writer(test: &Test) {
    let mut child = test
        .shell(&[], "exec yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = child.stdout.take().unwrap();
    reader.read_exact(&mut [0; 2]).unwrap();
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

fn output_is_appended_to_a_file(test: &Test) {
    let file = test.file("out", "before\n");
    let how = format!(">>'{file}' 2>&1");
    let status = redirected(&test.shell(&[], "echo out; echo err >&2"), &how).status();
    assert!(status.unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.remove(0), "before");
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
}

fn a_background_process_is_not_waited_for(test: &Test) {
    let done = test.run(&[], "sleep 86400 & setsid sleep 86400 & echo out; exit 4");
    assert_eq!((done.code, done.stdout.as_str()), (4, "out\n"));
}

fn one_file_for_input_and_output(test: &Test) {
    let (input, output) = (test.file("in", "text\n"), test.text("out"));
    let how = format!("<'{input}' >'{output}'");
    assert!(
        redirected(&test.shell(&[], "cat"), &how)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(fs::read_to_string(output).unwrap(), "text\n");
}

fn one_pipe_for_both_keeps_the_order(test: &Test) {
    let script = "for n in 1 2 3 4 5 6 7 8 9; do echo $n; echo $n >&2; done";
    let command = redirected(&test.shell(&[], script), "2>&1");
    let done = host::finish(command, b"").unwrap();
    let doubled: String = (1..=9).map(|n| format!("{n}\n{n}\n")).collect();
    assert_eq!(done.stdout, doubled);
}

fn output_that_is_closed_has_ended(test: &Test) {
    let mut command = test.shell(&[], "exec >&-; read line; exit 6");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut all = Vec::new();
    // The input ends while the command waits for a line.
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    child.stdin.take().unwrap().write_all(b"line\n").unwrap();
    assert_eq!((child.wait().unwrap().code(), all.len()), (Some(6), 0));
}

fn input_that_is_closed_breaks_the_pipe(test: &Test) {
    let (go, script) = (
        test.text("go"),
        "exec <&-; until [ -e \"$0/go\" ]; do sleep 0.1; done",
    );
    let mut command = test.command();
    let place = test.directory().to_str().unwrap();
    // In a bind mount, whose changes are seen at once; the root's overlay may cache that a file is missing.
    command.args(["-m", &format!("host-bind:{place}={place}")]);
    command.args(["--", "sh", "-c", script, place]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut writer = child.stdin.take().unwrap();
    eventually("a pipe without a reader breaks", || {
        writer.write_all(b"x").is_err()
    });
    fs::write(go, "").unwrap();
    assert!(child.wait().unwrap().success());
}

fn the_command_has_no_other_files(test: &Test) {
    // The last descriptor is the directory that ls reads.
    assert_eq!(test.says(&[], "exec ls /proc/self/fd"), "0\n1\n2\n3");
}
