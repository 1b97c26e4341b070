//! Properties other than files that a command in a container must not take from its caller: keys, priority, resource limits. Also
//! checks that a command can be ended before it has begun.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{TREES, Test, eventually, finish, ok, says, service_program};
use crate::unit;

const NAME: &str = "t-esc";

/// Puts a key into a new session keyring, then executes a command.
const GIVE: &str = "import ctypes, os, sys\n\
    call = ctypes.CDLL(None).syscall\n\
    keyctl, add_key = (250, 248) if os.uname().machine == 'x86_64' else (219, 217)\n\
    call(keyctl, 1, None)\n\
    assert call(add_key, b'user', b't-esc', b'KEY-OF-THE-HOST', 15, -3) > 0\n\
    os.execvp(sys.argv[1], sys.argv[1:])\n";

/// Looks for that key.
const TAKE: &str = "import ctypes, os\n\
    call = ctypes.CDLL(None, use_errno=True).syscall\n\
    keyctl = 250 if os.uname().machine == 'x86_64' else 219\n\
    content = ctypes.create_string_buffer(100)\n\
    key = call(keyctl, 10, -3, b'user', b't-esc', 0)\n\
    print('errno', ctypes.get_errno(), 'read', call(keyctl, 11, key, content, 100), content.value)\n";

#[test]
fn a_command_inherits_no_keys_priority_or_limits() {
    let Some(test) = Test::begin("a_command_inherits_no_keys_priority_or_limits") else {
        return;
    };
    let unit = unit();
    let create = ["create", "-N", "none", "--seccomp", "off"];
    ok(&[&create[..], &["-u", "t-esc.service", "--start", NAME]].concat());
    let program = service_program();
    let execute = |before: &[&str], words: &[&str]| {
        let mut command = Command::new("env");
        command.args(before).arg(&program);
        command.args(["execute", NAME, "--"]).args(words);
        let done = finish(command, "");
        assert_eq!(done.code, 0, "{before:?} {words:?}: {done:?}");
        done.stdout.trim().to_owned()
    };
    let own = execute(&[], &["python3", "-c", TAKE]);
    assert!(own.starts_with("errno 126 read -1"), "no key: {own}");
    let taken = execute(&["python3", "-c", GIVE], &["python3", "-c", TAKE]);
    assert_eq!(taken, own);
    let mut nice = Command::new("nice");
    nice.args(["-n", "-5", "nice"]);
    match finish(nice, "").stdout.trim() {
        "-5" => assert_eq!(execute(&["nice", "-n", "-5"], &["nice"]), "0"),
        other => eprintln!("SKIP the caller's priority: it cannot be raised to -5, only {other}"),
    }
    assert_eq!(execute(&["nice", "-n", "5"], &["nice"]), "5");
    says(
        NAME,
        "prlimit --pid 1 --core=0:0 --nofile=64:256 && echo 100 >/proc/1/oom_score_adj",
    );
    let bounds = "ulimit -Hc; ulimit -Hn; cat /proc/self/oom_score_adj";
    assert_eq!(execute(&[], &["bash", "-c", bounds]), "0\n256\n100");
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}

#[test]
fn a_command_runs_in_all_cgroups_of_its_sandbox_or_fails() {
    let Some(test) = Test::begin("a_command_runs_in_all_cgroups_of_its_sandbox_or_fails") else {
        return;
    };
    let unit = unit();
    let create = ["create", "-N", "none", "-u", "t-esc.service", "--start"];
    ok(&[&create[..], &[NAME]].concat());
    let program = service_program();
    let script = format!(
        "for m in $(findmnt -rno TARGET -t cgroup,cgroup2 | sort -r); do umount -l \"$m\"; done; \
         exec {} execute {NAME} -- cat /proc/self/cgroup",
        program.display()
    );
    let mut alone = Command::new("unshare");
    alone.args(["--mount", "--", "sh", "-c", &script]);
    let done = finish(alone, "");
    assert_eq!((done.code, done.stdout.as_str()), (125, ""), "{done:?}");
    assert!(
        done.stderr.contains("limits cannot be taken over"),
        "{done:?}"
    );
    assert_eq!(says(NAME, "grep -c '/\\.\\.' /proc/self/cgroup || :"), "0");
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}

#[test]
fn a_command_can_be_stopped_before_it_begins() {
    let Some(test) = Test::begin("a_command_can_be_stopped_before_it_begins") else {
        return;
    };
    let unit = unit();
    let create = ["create", "-N", "none", "-u", "t-esc.service", "--start"];
    ok(&[&create[..], &[NAME]].concat());
    // Nobody ever writes to it.
    says(NAME, "rm /etc/passwd && mkfifo /etc/passwd");
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGKILL,
    ] {
        let mut command = Command::new(service_program());
        command.args(["execute", NAME, "--", "true"]);
        let streams = command.stdin(Stdio::null()).stderr(Stdio::null());
        let mut execute = streams.spawn().unwrap();
        let (pid, below) = (execute.id(), || children(execute.id()));
        eventually("it waits for the account", || {
            below().first().is_some_and(|child| waits(child))
        });
        let child = below()[0].clone();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
        eventually(&format!("the command is over after {signal}"), || {
            !Path::new("/proc").join(&child).exists()
        });
        assert!(!execute.wait().unwrap().success(), "{signal}");
    }
    let passwd = Path::new(TREES).join(NAME).join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    fs::write(&passwd, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::set_permissions(&passwd, fs::Permissions::from_mode(0o644)).unwrap();
    says(NAME, "true");
    ok(&["delete", "--force", NAME]);
    drop(unit);
    test.end();
}

fn children(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Returns whether a process is blocked in opening a FIFO.
fn waits(pid: &str) -> bool {
    let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    place.contains("fifo") || place.contains("partner")
}
