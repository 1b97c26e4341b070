//! A command run as root without privileges: its id on the host, and its access to the host through its root filesystem.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tempfile::TempDir;

use crate::support::{Done, Test, finish, ok, program};
use crate::unit;

/// Binds sockets of every kind, and prints which were reached.
const HOST: &str = r#"
import ctypes, fcntl, os, socket, sys
os.chdir(sys.argv[1])
bound = []
def bind(name):
    it = socket.socket(socket.AF_UNIX); it.bind(name); it.listen(); it.setblocking(False)
    os.chmod(name, 0o777); bound.append(it)
def say(*words): print(*words, flush=True)
def accepted():
    count = 0
    for it in bound:
        try:
            while it.accept(): count += 1
        except BlockingIOError: pass
    return count
bind('relative'); bind(os.getcwd() + '/before'); bind('moved'); os.link('before', 'linked')
for name in ['flock', 'posix', 'lease', 'watched']: open(name, 'w').close()
os.mkfifo('pipe', 0o600); pipe = os.open('pipe', os.O_RDONLY | os.O_NONBLOCK)
say('ready')
sys.stdin.readline()
bind('later'); os.rename('moved', 'renamed')
bind('.new'); os.rename('.new', 'before')
ctypes.CDLL(None).unshare(0x40000000); bind('elsewhere')
with open('watched', 'w') as file: file.write('x')
os.mkdir('made')
problems = []
def attempt(what, do):
    try: do()
    except OSError as error: problems.append(f'{what}: {error}')
attempt('flock', lambda: fcntl.flock(os.open('flock', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB))
attempt('posix', lambda: fcntl.lockf(os.open('posix', os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB))
attempt('lease', lambda: os.open('lease', os.O_WRONLY | os.O_NONBLOCK))
say(problems)
sys.stdin.readline()
count = accepted()
try: heard = os.read(pipe, 100)
except BlockingIOError: heard = b''
for name in ['relative', 'before', 'linked', 'later', 'renamed', 'elsewhere']:
    socket.socket(socket.AF_UNIX).connect(name)
say(count, heard)
"#;

/// Takes locks and watches files; then tries all sockets and the pipe.
const ATTACKER: &str = r#"
import ctypes, fcntl, os, signal, socket, sys
# What the holder of a lease gets that somebody else wants.
signal.signal(signal.SIGIO, signal.SIG_IGN)
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK)
def attempt(what, do):
    try: do()
    except OSError as error: print(what, 'stopped', error)
    else: print(what, 'escaped')
held = [os.open(name, os.O_RDONLY) for name in ['flock', 'posix', 'lease']]
fcntl.flock(held[0], fcntl.LOCK_EX)
fcntl.lockf(held[1], fcntl.LOCK_SH)
try: fcntl.fcntl(held[2], fcntl.F_SETLEASE, fcntl.F_RDLCK)
except OSError: pass
for path in [b'.', b'watched']: assert libc.inotify_add_watch(watch, path, 0xfff) > 0
print('in', flush=True)
sys.stdin.readline()
attempt('events', lambda: os.read(watch, 4096))
for name in ['relative', 'before', 'linked', 'later', 'renamed', 'elsewhere']:
    assert os.path.lexists(name), name
    for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
        attempt(name, lambda: socket.socket(socket.AF_UNIX, kind).connect(name))
attempt('pipe', lambda: os.write(os.open('pipe', os.O_WRONLY | os.O_NONBLOCK), b'hello'))
"#;

/// A program that talks to the test line by line.
struct Dialogue {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dialogue {
    fn begin(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn tell(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// Returns the rest of the output.
    fn end(mut self) -> Vec<String> {
        let lines = self.output.lines().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success(), "{lines:?}");
        lines
    }
}

fn python(script: &str, place: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(place);
    command
}

/// Returns `virt-sandbox OPTIONS -- COMMAND`.
fn sandboxed(options: &[&str], command: &Command) -> Command {
    let mut whole = Command::new(crate::command_program());
    whole.args(options).arg("--").arg(command.get_program());
    whole.args(command.get_args());
    whole
}

fn shell(options: &[&str], script: &str) -> Done {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    finish(sandboxed(options, &command), "")
}

/// Makes a directory in the root filesystem that everybody may enter.
fn place() -> TempDir {
    let place = tempfile::Builder::new()
        .prefix("t-oneshot-")
        .tempdir_in("/var/lib");
    let place = place.unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    place
}

fn guest_init() -> PathBuf {
    match std::env::var_os("VIRT_SANDBOX_GUEST_INIT") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest-init/guest-init"),
    }
}

#[test]
fn a_command_shares_no_sockets_or_pipes_with_the_host() {
    let name = "a_command_shares_no_sockets_or_pipes_with_the_host";
    let Some(test) = Test::begin(name) else {
        return;
    };
    let mut escaped = Vec::new();
    for options in [
        &[][..],
        &["-S", "nobody"],
        &["--privileged"],
        &["--volatile"],
        &["--idmap", "no"],
        &["--idmap", "no", "--privileged"],
    ] {
        let place = place();
        let mut host = Dialogue::begin(python(HOST, place.path()));
        assert_eq!(host.hear(), "ready");
        let command = python(ATTACKER, place.path());
        let mut attacker = Dialogue::begin(sandboxed(options, &command));
        assert_eq!(attacker.hear(), "in", "{options:?}");
        host.tell();
        let held_up = host.hear();
        attacker.tell();
        let attempts = attacker.end();
        host.tell();
        let reached = host.hear();
        host.end();
        println!("--- {options:?}: held up {held_up}, reached {reached}: {attempts:#?}");
        assert_eq!(attempts.len(), 14, "{attempts:?}");
        let out = attempts.iter().filter(|line| line.contains("escaped"));
        escaped.extend(out.map(|line| format!("{options:?}: {line}")));
        if (held_up.as_str(), reached.as_str()) != ("[]", "0 b''") {
            escaped.push(format!("{options:?}: {held_up} {reached}"));
        }
    }
    assert!(escaped.is_empty(), "{escaped:#?}");
    test.end();
}

#[test]
fn root_of_a_command_has_an_id_that_owns_nothing() {
    let Some(test) = Test::begin("root_of_a_command_has_an_id_that_owns_nothing") else {
        return;
    };
    let place = place();
    let bind = format!("host-bind:/mnt={}", place.path().display());
    let listener = UnixListener::bind(place.path().join("socket")).unwrap();
    let connect = "import socket; socket.socket(socket.AF_UNIX).connect('/mnt/socket')";
    // Options, and the id inside.
    for (options, inside) in [
        (&[][..], 0),
        (&["-S", "nobody"], 65534),
        (&["--privileged"], 0),
    ] {
        let map = shell(options, "id -u; cat /proc/self/uid_map /proc/self/gid_map");
        let numbers: Vec<u32> = (map.stdout.split_whitespace())
            .map(|word| word.parse().unwrap())
            .collect();
        let [id, 0, first, count, 0, group, groups] = numbers[..] else {
            panic!("{map:?}");
        };
        assert_eq!((id, group, groups), (inside, first, count), "{map:?}");
        assert!(first >= 65536 && count == 65536, "{map:?}");

        // A socket that the user mounts is reached, as an id that owns nothing.
        fs::set_permissions(place.path().join("socket"), Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", connect]);
        let options = [options, &["-m", &bind]].concat();
        let done = finish(sandboxed(&options, &command), "");
        assert_eq!(done.code, 0, "{done:?}");
        let (peer, _) = listener.accept().unwrap();
        let peer = getsockopt(&peer, PeerCredentials).unwrap();
        assert!(peer.uid() >= 65536 && peer.gid() >= 65536, "{peer:?}");
    }
    // Access follows the file's mode, and files that root inside makes belong to root on the disk.
    let secret = place.path().join("secret");
    fs::write(&secret, "text").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let done = shell(&["-m", &bind], "cat /mnt/secret; echo new >/mnt/new");
    assert_eq!((done.code, done.stdout.as_str()), (0, "text"), "{done:?}");
    let new = fs::metadata(place.path().join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (0, 0));
    let done = shell(
        &["-S", "nobody", "-m", "host-bind:/mnt="],
        "touch /mnt/x; stat -c %u /mnt/x",
    );
    assert_eq!(done.stdout.trim(), "65534", "{done:?}");
    for write in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/etc/motd",
    ] {
        assert_ne!(shell(&[], &format!("echo x >{write}")).code, 0, "{write}");
    }
    test.end();
}

#[test]
fn locks_of_a_command_do_not_block_the_host() {
    let Some(test) = Test::begin("locks_of_a_command_do_not_block_the_host") else {
        return;
    };
    let unit = unit();
    ok(&["create", "-N", "none", "-u", "t-esc.service", "t-esc"]);
    let script = "import fcntl, os, sys\n\
        held = [os.open(name, os.O_RDONLY) for name in sys.argv[1:] if os.path.exists(name)]\n\
        for file in held: fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_SH)\n\
        print(len(held), flush=True); sys.stdin.readline()";
    let mut command = python(
        script,
        Path::new("/etc/libvirt-sandbox/services/t-esc/lock"),
    );
    command.arg("/var/lib/dpkg/lock");
    let mut holder = Dialogue::begin(sandboxed(&[], &command));
    let held: u32 = holder.hear().parse().unwrap();
    assert!(held > 0, "there is a lock to hold");
    let mut set = Command::new("timeout");
    set.arg("30").arg(program().get_program());
    set.args(["set", "t-esc", "pids=200"]);
    let done = finish(set, "");
    holder.tell();
    holder.end();
    assert_eq!(done.code, 0, "{done:?}");
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

/// Runs in a new user namespace where user namespaces are first disabled, then exhausted.
const NAMESPACES: &str = r#"
limit=/proc/sys/user/max_user_namespaces
echo 0 >$limit; "$0" try-ids 2000 10; echo $?
echo 100 >$limit; "$0" try-ids 2000 10; echo $?
setpriv --reuid 2000 --clear-groups unshare --user sleep 1000 & holder=$!
until [ "$(readlink /proc/$holder/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do :; done
echo 1 >$limit; "$0" try-ids 2000 10; echo $?
kill $holder
"#;

#[test]
fn temporary_errors_do_not_disable_own_ids() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let mut holder = Command::new("unshare");
    let mut holder = holder.args(["--user", "sleep", "1000"]).spawn().unwrap();
    let pid = holder.id().to_string();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    while namespace(&pid) == namespace("self") {
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 1000000 65536").unwrap();
    }
    let mut command = Command::new("nsenter");
    command.args([
        "-t", &pid, "-U", "-S", "0", "-G", "0", "sh", "-c", NAMESPACES,
    ]);
    command.arg(guest_init());
    let done = finish(command, "");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(done.stdout, "77\n0\n1\n", "{done:?}");
    // A low limit of open files is never mistaken for a host that cannot map ids.
    let statuses = "for most in 3 4 5 6 7 8 9 10 11 12; do (ulimit -n $most; \"$0\" try-ids 1000000 10 /); echo $?; done";
    let mut command = Command::new("sh");
    command.args(["-c", statuses]).arg(guest_init());
    let done = finish(command, "");
    assert!(
        done.stdout.starts_with("1\n") && done.stdout.ends_with("0\n"),
        "{done:?}"
    );
    assert!(!done.stdout.contains("77"), "{done:?}");
}
