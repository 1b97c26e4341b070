//! Access of other users of the host to a machine's files: its boot files, with the secrets of its command, and its sockets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use test_harness::host;
use test_harness::libvirtd::qemu_uri;
use test_harness::user::{self, UserDirectory};

use crate::support::{Done, Test, eventually, finish, ok, service_program};

const SECRET: &str = "t-escape-boot-secret";
const STAGE: &str = "/var/lib/libvirt-sandbox/t-esc-boot";
const CACHE: &str = "/var/cache/virt-sandbox";

/// Connects to each of the given sockets, and prints how many accepted.
const CONNECT: &str = "\
import socket, sys
taken = 0
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        taken += 1
    except PermissionError:
        pass
print(taken)";

/// Runs a program as another user of the host, with this group.
fn somebody(group: &str, program: &str, arguments: &[&str]) -> Done {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        group,
        "--clear-groups",
        "--",
        program,
    ]);
    command.args(arguments);
    finish(command, "")
}

/// Returns the mode and the owner of everything below `top` that exists.
fn modes(top: &Path) -> Vec<(PathBuf, u32, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Ok(at) = fs::symlink_metadata(&path) {
            found.push((path.clone(), at.mode(), at.uid()));
        }
        found.extend(modes(&path));
    }
    found
}

/// Watches a machine's boot files for as long as `start` takes.
fn watch(stage: &Path, start: impl FnOnce()) -> Vec<(PathBuf, u32, u32)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                seen.extend(modes(&stage.join("boot-files")));
                seen.sort();
                seen.dedup();
                thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        start();
        is_over.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    })
}

/// Checks that every file of the cache belongs to root alone, however often libvirt has started a machine.
fn assert_cache_is_roots() {
    let files = modes(Path::new(CACHE));
    assert!(!files.is_empty());
    for (path, mode, owner) in files {
        let is_kernel = path.parent() == Some(Path::new(CACHE));
        let is_current = is_kernel && mode & 0o077 == 0;
        assert!(
            owner == 0 || !is_kernel,
            "{} is user {owner}'s",
            path.display()
        );
        assert!(
            is_current || mode & 0o022 == 0,
            "{}: {mode:o}",
            path.display()
        );
    }
    let mode = fs::metadata(CACHE).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// Checks that the boot files are empty: either QEMU has read them, or it never will.
fn assert_empty(boot_files: &Path) {
    for name in ["kernel", "initrd"] {
        let file = fs::metadata(boot_files.join(name)).unwrap();
        assert_eq!(file.len(), 0, "{name}");
    }
}

#[test]
#[ignore = "slow: make test-slow"]
fn boot_secrets_of_a_machine_are_private_and_removed_once_it_runs() {
    let Some(test) = Test::begin("boot_secrets_of_a_machine_are_private_and_removed_once_it_runs")
    else {
        return;
    };
    let variable = format!("DB_PASSWORD={SECRET}");
    let create = [
        "create",
        "-N",
        "none",
        "--env",
        &variable,
        "t-esc-boot",
        "--",
        "sleep",
        "1000",
    ];
    ok(&[&["-c", &qemu_uri().unwrap()], &create[..]].concat());
    let stage = Path::new(STAGE);
    let boot_files = stage.join("boot-files");
    assert!(!boot_files.exists(), "it has not started yet");
    let seen = watch(stage, || drop(ok(&["start", "t-esc-boot"])));
    for name in ["kernel", "initrd"] {
        let of_name = seen.iter().filter(|(path, ..)| path.ends_with(name));
        assert!(of_name.count() > 0, "{name} was not seen: {seen:?}");
    }
    for (path, mode, _) in seen {
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    assert_empty(&boot_files);
    let found = somebody(
        "65534",
        "grep",
        &["-r", SECRET, STAGE, "/var/lib/libvirt-sandbox", CACHE],
    );
    assert!(
        !found.stdout.contains(SECRET) && found.code != 0,
        "{found:?}"
    );

    // The group of QEMU's sockets has other members on some hosts.
    let sockets: Vec<String> = (0..16).map(|way| format!("{STAGE}/ways/{way}")).collect();
    let mut arguments = vec!["-c", CONNECT];
    arguments.extend(sockets.iter().map(String::as_str));
    let group = fs::metadata(&sockets[0]).unwrap().gid().to_string();
    for group in [group.as_str(), "65534"] {
        let done = somebody(group, "/usr/bin/python3", &arguments);
        assert_eq!(done.stdout.trim(), "0", "{done:?}");
    }

    // The boot files are there again at a reboot, and a command that runs inside meanwhile ends with an error.
    let bounded = |seconds: &str, command: &[&str]| {
        let mut asked = Command::new("timeout");
        asked
            .args(["--signal=KILL", seconds])
            .arg(service_program());
        asked.args(["execute", "t-esc-boot", "--"]).args(command);
        finish(asked, "")
    };
    ok(&["execute", "t-esc-boot", "--", "touch", "/run/before"]);
    let left = bounded("600", &["reboot", "-ff"]);
    assert!(left.stderr.contains("has rebooted meanwhile"), "{left:?}");
    let has_rebooted = || bounded("60", &["test", "!", "-e", "/run/before"]).code == 0;
    // An emulated machine on a busy host takes minutes.
    assert!(
        (0..6).any(|_| host::becomes_so(has_rebooted)),
        "it has started anew"
    );
    ok(&["stop", "t-esc-boot"]);
    assert!(!boot_files.exists());
    assert_cache_is_roots();

    // A directory as a killed command leaves it.
    fs::create_dir(&boot_files).unwrap();
    fs::write(boot_files.join("initrd"), SECRET).unwrap();
    ok(&["list"]);
    assert_empty(&boot_files);
    ok(&["delete", "t-esc-boot"]);
    test.end();
}

/// A command in a user's machine that runs until its standard input ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Opens the user's home for others until drop.
struct OpenHome(PathBuf, Permissions);

impl OpenHome {
    fn new(user: &UserDirectory) -> Self {
        let home = user.home();
        let before = fs::metadata(&home).unwrap().permissions();
        fs::set_permissions(&home, Permissions::from_mode(0o775)).unwrap();
        Self(home, before)
    }
}

impl Drop for OpenHome {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, self.1.clone());
    }
}

#[test]
fn sockets_of_a_user_are_private_within_the_group() {
    let Some(test) = Test::begin("sockets_of_a_user_are_private_within_the_group") else {
        return;
    };
    let user = UserDirectory::from_environment().unwrap();
    let home = OpenHome::new(&user);
    let runtime = user.home().join(".cache/virt-sandbox/run");
    // A directory as an earlier version made it.
    let mut command = user.command("mkdir");
    command.args(["-p", "-m", "711"]).arg(&runtime);
    assert_eq!(finish(command, "").code, 0);
    let program = crate::command_program();
    for uri in [user.uri(), "qemu:///embed".to_owned()] {
        let mut command = user.command("sh");
        command
            .args(["-c", "umask 002; exec \"$@\"", "sh"])
            .arg(&program)
            .args(["-c", &uri, "-n", "t-u", "--", "cat"])
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let running = Running(command.spawn().unwrap());
        let sandbox = runtime.join("t-u");
        let channel = sandbox.join("sockets/channel");
        eventually("it has a channel", || channel.exists());
        for directory in [&runtime, &sandbox, &sandbox.join("sockets")] {
            let mode = fs::metadata(directory).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o700, "{}", directory.display());
        }
        let note = fs::metadata(sandbox.join("domain.json")).unwrap();
        assert_eq!(note.mode() & 0o777, 0o600);
        // All sockets, including the monitor's.
        let is_socket = |mode: u32| mode & 0o170_000 == 0o140_000;
        let sockets = modes(&sandbox)
            .into_iter()
            .filter(|(_, mode, _)| is_socket(*mode));
        let sockets: Vec<String> = sockets
            .map(|(path, ..)| path.display().to_string())
            .collect();
        assert!(sockets.len() >= 2, "{sockets:?}");
        let mut arguments = vec!["-c", CONNECT];
        arguments.extend(sockets.iter().map(String::as_str));
        let done = somebody(user::NAME, "/usr/bin/python3", &arguments);
        assert_eq!(done.stdout.trim(), "0", "{done:?}");
        drop(running);
        assert!(!sandbox.exists());
    }
    drop(home);
    test.end();
}
