//! Tests of the raw view, and of what an exploited daemon can reach: next to nothing.

use std::fs;
use std::process::Command;

use super::*;

const MARKER: &str = "export-marker";

/// Makes a directory with an image of `format`, created with `options`, and a file `victim`.
fn make(format: &str, options: &[&str]) -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let mut content = MARKER.as_bytes().to_vec();
    content.resize(1 << 20, b'.');
    fs::write(dir.path().join("victim"), content).unwrap();
    let image = dir.path().join("a:b,c.image");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-u", "-f", format])
        .args(options)
        .arg(&image)
        .arg("1M")
        .status();
    made.is_ok_and(|status| status.success())
        .then_some((dir, image))
}

fn image<'a>(path: &'a Path, format: &'a str) -> Image<'a> {
    Image {
        path,
        format,
        read_only: false,
        backing: false,
    }
}

/// Returns the view of an image; `None` if the host does not support it.
fn shown(test: &str, image: Image<'_>) -> Option<RawView> {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: {test}: not root, or no FUSE");
        return None;
    }
    Some(RawView::new(image).unwrap())
}

#[test]
fn an_image_is_read_and_written_as_a_raw_one() {
    let test = "an_image_is_read_and_written_as_a_raw_one";
    for format in ["qcow2", "vmdk", "vdi"] {
        let Some((_dir, path)) = make(format, &[]) else {
            eprintln!("skipped: {test}: no qemu-img");
            return;
        };
        let Some(export) = shown(test, image(&path, format)) else {
            return;
        };
        let view = export.path();
        assert_eq!(fs::metadata(&view).unwrap().len(), 1 << 20);
        let mut content = vec![b'x'; 1 << 20];
        content[..4].copy_from_slice(b"kept");
        let file = OpenOptions::new().write(true).open(&view).unwrap();
        io::Write::write_all(&mut &file, &content).unwrap();
        drop(file);
        let second = RawView::new(image(&path, format)).unwrap_err();
        assert!(second.to_string().contains("lock"), "{second}");
        drop(export);
        let reading = Image {
            read_only: true,
            ..image(&path, format)
        };
        let export = RawView::new(reading).unwrap();
        assert!(fs::read(export.path()).unwrap() == content);
        let writing = OpenOptions::new().write(true).open(export.path());
        let refused = writing.and_then(|mut file| io::Write::write_all(&mut file, b"no"));
        assert!(refused.is_err());
    }
}

#[test]
fn what_an_image_names_is_out_of_the_daemons_reach() {
    let test = "what_an_image_names_is_out_of_the_daemons_reach";
    let Some((dir, path)) = make("qcow2", &["-b", "victim", "-F", "raw"]) else {
        eprintln!("skipped: {test}: no qemu-img");
        return;
    };
    let error = RawView::new(image(&path, "qcow2")).unwrap_err();
    assert!(error.to_string().contains("'victim'"), "{error}");
    let file = || references::open(&path, false).unwrap();
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: {test}: not root, or no FUSE");
        return;
    }
    let export = RawView::show(image(&path, "qcow2"), file()).unwrap();
    assert!(
        fs::read(export.path())
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    drop(export);
    let victim = dir.path().join("victim");
    let text = |extent: &str| {
        format!(
            "version=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{extent}\n"
        )
    };
    for extent in [
        format!("RW 2048 FLAT \"{}\" 0", victim.display()),
        "RW 2048 FLAT \"victim\" 0".to_owned(),
        // Even files in its root are not writable.
        "RW 8 FLAT \"/qemu-storage-daemon\" 0".to_owned(),
    ] {
        fs::write(&path, text(&extent)).unwrap();
        let error = RawView::show(image(&path, "vmdk"), file()).unwrap_err();
        assert!(error.to_string().contains("Could not open"), "{error}");
    }
    assert!(fs::read(&victim).unwrap().starts_with(MARKER.as_bytes()));
    let backing = Image {
        backing: true,
        ..image(&path, "vmdk")
    };
    fs::write(&path, text("RW 2048 FLAT \"victim\" 0")).unwrap();
    let export = RawView::new(backing).unwrap();
    let view = fs::read(export.path()).unwrap();
    assert!(view.starts_with(MARKER.as_bytes()));
}

/// Runs `program` as the daemon of the image at `path`, and returns its error output.
fn run_confined(
    program: &str,
    arguments: &[&str],
    path: &Path,
    patience: Duration,
) -> io::Result<String> {
    let arguments = daemon::DaemonCommand {
        program: program.into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        device: File::open("/dev/null").unwrap(),
    };
    let given = broker::BrokeredFiles {
        path: path.to_owned(),
        image: references::open(path, false).unwrap(),
        host: None,
    };
    let deadline = Deadline::new(Mutex::new(Some(Instant::now() + patience)));
    let (sender, _started) = mpsc::channel();
    let thread = std::thread::spawn(move || daemon::run(arguments, &given, &deadline, &sender));
    thread.join().unwrap()
}

/// Tries what an exploited daemon could do, and prints what worked.
const ATTACKER: &str = r#"
import ctypes, os, socket, sys
image, victim = sys.argv[1:3]
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try:
        result = act()
    except (OSError, MemoryError, PermissionError) as error:
        return
    print(f"{name}: {result!r}", file=sys.stderr)
def call(*arguments):
    result = libc.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def opens(path, flags=os.O_RDONLY):
    attempt(f"open {path}", lambda: os.open(path, flags))
if os.pread(os.open(image, os.O_RDWR), 5, 0) != b"image":
    print("the image cannot be read", file=sys.stderr)
directory, name = os.path.split(image)
for path in ["/etc/passwd", "/proc/self/status", "/sys", "/home", "/root", "/run", "/tmp", "/dev/tty", "/dev/fuse", "/dev/loop-control",
             "/proc/1/root", victim, directory, directory + "/./" + name, os.path.basename(victim), "/dev/fd/../../etc/passwd"]:
    opens(path)
for path in ["/x", "/dev/x", "/usr/lib/x", "/qemu-storage-daemon", "/dev/fd/x"]:
    opens(path, os.O_RDWR | os.O_CREAT)
for family in [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40, 38]:
    attempt(f"socket {family}", lambda: call(41, int(family), 1, 0))
attempt("socketpair", socket.socketpair)
attempt("fork", os.fork)
attempt("root", lambda: os.setuid(0))
attempt("nobody", lambda: os.setuid(65534))
attempt("groups", lambda: os.setgroups([0]))
attempt("chown", lambda: os.chown(image, 0, 0))
attempt("chroot", lambda: os.chroot("/"))
attempt("memory", lambda: len(bytearray(2 << 30)))
for name, arguments in {
    "mount": [165, b"none", b"/usr", b"tmpfs", 0, 0], "unshare": [272, 0x10000000], "setns": [308, 0, 0], "ptrace": [101, 16, 1, 0, 0],
    "bpf": [321, 0, 0, 0], "keyctl": [250, 0, -3, 1], "io_uring": [425, 1, 0], "userfaultfd": [323, 0], "perf": [298, 0, 0, -1, -1, 0],
    "open_by_handle_at": [304, 0, 0, 0], "process_vm_readv": [310, 1, 0, 0, 0, 0, 0], "clone3": [435, 0, 0], "x32": [0x40000000 + 39],
    "user namespace": [56, 0x10000000 | 17, 0, 0, 0, 0], "openat2": [437, -100, b"/etc/passwd", ctypes.create_string_buffer(24), 24],
    "open": [2, victim.encode(), 0], "memfd": [319, b"x", 0],
}.items():
    attempt(name, lambda: call(*arguments))
for fd in range(3, 4096):
    try:
        status = os.fstat(fd)
        print(f"descriptor {fd}: {status}", file=sys.stderr) if (status.st_mode & 0o170000) not in (0o100000, 0o020000) else None
    except OSError:
        pass
if os.getppid() != 0 or os.getpid() != 1:
    print("it sees processes", file=sys.stderr)
"#;

#[test]
fn who_takes_the_daemon_over_has_the_image() {
    let test = "who_takes_the_daemon_over_has_the_image";
    let python = Path::new("/usr/bin/python3");
    let is_here = cfg!(target_arch = "x86_64") && python.exists();
    if !nix::unistd::geteuid().is_root() || !is_here {
        eprintln!("skipped: {test}: not root on x86_64, or no python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, victim) = (dir.path().join("image"), dir.path().join("victim"));
    fs::write(&image, "image").unwrap();
    fs::write(&victim, MARKER).unwrap();
    let paths = [image.to_str().unwrap(), victim.to_str().unwrap()];
    let arguments = ["-I", "-c", ATTACKER, paths[0], paths[1]];
    let patience = Duration::from_secs(60);
    let said = run_confined("/usr/bin/python3", &arguments, &image, patience).unwrap();
    assert_eq!(said, "qemu-storage-daemon: exit status: 0");
}

#[test]
fn a_daemon_that_does_not_answer_is_killed() {
    let test = "a_daemon_that_does_not_answer_is_killed";
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: {test}: not root");
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    let patience = Duration::from_millis(300);
    let error = run_confined("/usr/bin/sleep", &["1000"], image.path(), patience).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
}

#[test]
fn what_is_no_image_of_the_format_is_an_error() {
    let test = "what_is_no_image_of_the_format_is_an_error";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    fs::write(&path, "no image").unwrap();
    for wrong in [dir.path(), Path::new("/dev/null"), &dir.path().join("none")] {
        assert!(RawView::new(image(wrong, "qcow2")).is_err(), "{wrong:?}");
    }
    if make("qcow2", &[]).is_some() && Path::new("/dev/fuse").exists() {
        let error = RawView::new(image(&path, "qcow2")).unwrap_err();
        assert!(!error.to_string().is_empty(), "{test}");
    }
}
