//! Standard streams without a terminal: pipes of the caller, and all else relayed.

use std::fs::{self, File};
use std::io::{Read, Seek, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::{enter, run, status};

/// Prints device and inode of each stream in the sandbox.
const WHOSE: &str = "stat -L -c %d:%i /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2";

fn id(file: &File) -> String {
    let metadata = file.metadata().unwrap();
    format!("{}:{}", metadata.dev(), metadata.ino())
}

#[test]
fn only_pipes_are_the_callers_own() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (unix, _other) = UnixStream::pair().unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let (pipe, _writer) = pipe().unwrap();
    let files: Vec<(&str, bool, OwnedFd)> = vec![
        ("a pipe", true, pipe.into()),
        ("a file", false, File::open("/etc/passwd").unwrap().into()),
        ("a directory", false, File::open("/").unwrap().into()),
        ("a device", false, File::open("/dev/null").unwrap().into()),
        (
            "a FIFO",
            false,
            File::options()
                .read(true)
                .write(true)
                .open(&fifo)
                .unwrap()
                .into(),
        ),
        ("TCP", false, TcpStream::connect(address).unwrap().into()),
        ("a Unix socket", false, unix.into()),
        ("a terminal", false, terminal.slave),
    ];
    for (what, handed_down, file) in files {
        let Some(mut command) = enter(&[], WHOSE) else {
            return;
        };
        let file = File::from(file);
        let (mut log, own) = (tempfile::tempfile().unwrap(), id(&file));
        command.stdin(file).stdout(log.try_clone().unwrap());
        let ended = command.stderr(log.try_clone().unwrap()).status().unwrap();
        assert!(ended.success());
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        // The error about a directory goes to the same file.
        let ids: Vec<&str> = text.lines().filter(|line| !line.contains(' ')).collect();
        assert_eq!(ids[0] == own, handed_down, "{what}: {text}");
        assert!(
            ids[1..].iter().all(|other| *other != id(&log)),
            "{what}: {text}"
        );
        assert_eq!(ids[1], ids[2], "one file, and one pipe for it: {text}");
    }
}

#[test]
fn a_file_cannot_be_written_but_at_its_end() {
    let script = "import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, 0)\n\
                  try: os.pwrite(1, b'FORGED', 0)\nexcept OSError as error: print(error.errno, flush=True)\n\
                  try: os.ftruncate(1, 0)\nexcept OSError as error: print(error.errno, flush=True)\n";
    let Some(mut command) = enter(&[], "exec python3 -c \"$0\"") else {
        return;
    };
    let mut log = tempfile::NamedTempFile::new().unwrap();
    log.write_all(b"history\n").unwrap();
    let append = File::options().append(true).open(log.path()).unwrap();
    command.arg(script).stdout(append);
    assert!(command.status().unwrap().success());
    // ESPIPE, EINVAL.
    assert_eq!(fs::read_to_string(log.path()).unwrap(), "history\n29\n22\n");
}

#[test]
fn a_terminal_is_relayed_where_only_one_stream_is_one() {
    let script =
        "tty; cat; if (: </dev/tty); then echo controlled; fi 2>&1; test -t 2 || echo none";
    let Some(mut command) = enter(&[], script) else {
        return;
    };
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut keys = File::from(terminal.master);
    // A session with this controlling terminal.
    let mut session = Command::new("setsid");
    session
        .arg("--ctty")
        .arg(command.get_program())
        .args(command.get_args());
    let slave = || terminal.slave.try_clone().unwrap();
    session
        .stdin(slave())
        .stderr(slave())
        .stdout(Stdio::piped());
    command = session;
    let mut child = command.spawn().unwrap();
    keys.write_all(b"typed\n\x04").unwrap();
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(status(&mut child), 0);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["not a tty", "typed"], "{said}");
    assert!(
        lines[2].contains("/dev/tty") && lines[3] == "none",
        "{said}"
    );
}

#[test]
fn a_key_reaches_the_command_that_has_no_terminal() {
    let Some(command) = enter(&[], "echo up; exec sleep 1000") else {
        return;
    };
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut keys = File::from(terminal.master);
    let mut session = Command::new("setsid");
    session
        .arg("--ctty")
        .arg(command.get_program())
        .args(command.get_args());
    session.stdin(terminal.slave).stdout(Stdio::piped());
    let mut child = session.spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut up).unwrap();
    // Control-C.
    keys.write_all(b"\x03").unwrap();
    assert_eq!(status(&mut child), 130);
}

#[test]
fn much_is_relayed_without_a_loss() {
    const SIZE: u64 = 100 << 20;
    let Some(mut command) = enter(&[], "cat") else {
        return;
    };
    let mut input = tempfile::tempfile().unwrap();
    let line: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    for _ in 0..SIZE >> 20 {
        input.write_all(&line).unwrap();
    }
    input.rewind().unwrap();
    let mut output = tempfile::tempfile().unwrap();
    command.stdin(input).stdout(output.try_clone().unwrap());
    assert!(command.status().unwrap().success());
    output.rewind().unwrap();
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        output.read_exact(&mut chunk).unwrap();
        assert!(chunk == line);
    }
    assert_eq!(output.read(&mut chunk).unwrap(), 0);
}

#[test]
fn closed_streams_are_empty() {
    for how in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let Some(entering) = enter(&[], "cat; echo out; echo err >&2; exit 3") else {
            return;
        };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$@\" {how}"), "sh"]);
        shell.arg(entering.get_program()).args(entering.get_args());
        let ended = shell.stdin(Stdio::null()).output().unwrap();
        assert_eq!(ended.status.code(), Some(3), "{how}: {ended:?}");
    }
}

#[test]
fn a_process_left_behind_does_not_keep_us() {
    for script in ["sleep 1000 & echo out; exit 4", "yes & echo out; exit 4"] {
        let Some(mut command) = enter(&[], script) else {
            return;
        };
        let mut log = tempfile::tempfile().unwrap();
        command.stdout(log.try_clone().unwrap());
        assert_eq!(status(&mut command.spawn().unwrap()), 4);
        log.rewind().unwrap();
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        assert!(text.contains("out\n"));
    }
}

#[test]
fn a_full_disk_is_said_and_is_a_failure() {
    let Some(mut command) = enter(&[], "echo out") else {
        return;
    };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        said.contains("writing standard output: No space left"),
        "{said}"
    );
    assert_eq!(ended.status.code(), Some(125));
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    for output in [OwnedFd::from(theirs), writer.into()] {
        let Some(mut command) = enter(&[], "exec yes") else {
            return;
        };
        let mut child = command.stdout(output).spawn().unwrap();
        drop(command);
        let _ = ours.shutdown(std::net::Shutdown::Both);
        assert_eq!(status(&mut child), 128 + 13);
    }
}

#[test]
fn output_that_is_closed_has_ended() {
    for socket in [false, true] {
        let Some(mut command) = enter(&[], "exec >&-; read line; exit 6") else {
            return;
        };
        let (input, mut ours) = pipe().unwrap();
        command.stdin(input);
        let mut reader: Box<dyn Read> = if socket {
            let (ours, theirs) = UnixStream::pair().unwrap();
            command.stdout(OwnedFd::from(theirs));
            Box::new(ours)
        } else {
            let (reader, theirs) = pipe().unwrap();
            command.stdout(theirs);
            Box::new(reader)
        };
        let mut child = command.spawn().unwrap();
        drop(command);
        // The output ends while the command waits for a line.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        ours.write_all(b"line\n").unwrap();
        assert_eq!(status(&mut child), 6);
    }
}

#[test]
fn signals_reach_the_command_and_a_kill_ends_it() {
    for (signal, expected) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let Some(mut command) = enter(&[], "echo up; exec sleep 1000") else {
            return;
        };
        let mut child = command.spawn().unwrap();
        let mut up = [0; 3];
        child.stdout.take().unwrap().read_exact(&mut up).unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(status(&mut child), expected);
    }
    let mut command = enter(&[], "echo up; exec sleep 1000").unwrap();
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The pipe is closed when the command is killed.
    let ended = thread::spawn(move || stdout.read(&mut [0]).unwrap());
    assert_eq!(ended.join().unwrap(), 0);
}

#[test]
fn what_is_handed_down_can_be_opened_again_in_its_direction() {
    let script = "cat /dev/stdin; echo again >/dev/stdout; : 2>/dev/null >/proc/self/fd/0";
    let Some(command) = enter(&["--user", "daemon"], script) else {
        return;
    };
    let (code, said) = run(command, b"in\n");
    assert_eq!(said, "in\nagain\n");
    assert_ne!(code, 0, "input cannot be written");
}
