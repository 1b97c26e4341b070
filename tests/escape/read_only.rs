//! Attempts of a machine's root to write to read-only directories, on a kernel with 9p and on one without. The
//! guest's kernel belongs to root inside, so it mounts them once more, writable.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use test_harness::guest::{Flavour, Kernel};
use test_harness::libvirtd::{PID_VARIABLE, qemu_uri};

use crate::support::{Done, HostFile, Test, finish, inside, ok, run};

/// Directory in the host's `/usr`, which every machine mounts.
const IN_USR: &str = "/usr/share/t-escape-read-only";

/// Directory that only the host's root may enter, so QEMU cannot read it.
const PRIVATE: &str = "/var/lib/t-escape-read-only";

/// Mount point of another filesystem below [`PRIVATE`], in the daemon's namespace.
const MOUNTED: &str = "/var/lib/t-escape-read-only/mounted";

/// Script that is run inside; its arguments are the directories in which it tries to write.
const ATTEMPTS: &str = include_str!("write_attempts.py");

/// Number of attempts in each directory.
const OF_A_PLACE: usize = 21;

/// Attempts that a transport may not support at all.
const OPTIONAL: [&str; 2] = ["make a file without a name", "set an attribute"];

/// Returns whether a line reports an attempt that failed because the filesystem is read-only. Any other failure would mean that
/// nothing was tested.
fn is_refused(line: &str) -> bool {
    let [verdict, _, name, error] = line.split('\t').collect::<Vec<_>>()[..] else {
        return false;
    };
    let is_read_only = error == nix::libc::EROFS.to_string();
    let is_missing = error == nix::libc::EOPNOTSUPP.to_string() && OPTIONAL.contains(&name);
    verdict == "stopped" && (is_read_only || is_missing)
}

/// Checks that every attempt was made in at least `least_places` directories, and refused.
fn assert_refused(done: &Done, least_places: usize) {
    let (refused, other): (Vec<&str>, Vec<&str>) =
        done.stdout.lines().partition(|line| is_refused(line));
    assert!(other.is_empty(), "{other:#?}");
    let least = least_places * OF_A_PLACE;
    assert!(refused.len() >= least, "fewer than {least}: {done:?}");
    println!("{} attempts refused", refused.len());
}

/// Files of the host, and their state before the attack.
struct Prey {
    _files: Vec<HostFile>,
    before: Vec<String>,
}

impl Prey {
    fn new() -> Self {
        let files = ["file", "dir/file"];
        let files: Vec<HostFile> = [IN_USR, PRIVATE]
            .iter()
            .flat_map(|top| files.map(|name| HostFile::new(&format!("{top}/{name}"), "the host's")))
            .collect();
        fs::set_permissions(PRIVATE, Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(MOUNTED).unwrap();
        Self {
            _files: files,
            before: Self::state(),
        }
    }

    fn state() -> Vec<String> {
        let find = format!(
            "find {IN_USR} {PRIVATE} -printf '%p %m %U %G %n %s %T@ %C@\\n' | sort; cat {IN_USR}/file {PRIVATE}/file"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &find]);
        let done = finish(command, "");
        assert_eq!(done.code, 0, "{done:?}");
        done.stdout.lines().map(ToOwned::to_owned).collect()
    }

    fn assert_untouched(&self) {
        assert_eq!(self.before, Self::state());
    }
}

/// Runs a script where the daemon has its mounts.
fn at_daemon(script: &str) {
    let mut command = Command::new("nsenter");
    let daemon = std::env::var(PID_VARIABLE).unwrap();
    command.args(["-m", "-t", &daemon, "sh", "-ec", script]);
    let done = finish(command, "");
    assert_eq!(done.code, 0, "{script}: {done:?}");
}

fn release(flavour: Flavour) -> String {
    Kernel::find(flavour).unwrap().version
}

/// Attacks as root of a command with all capabilities, which sees the whole host.
fn attack_from_a_command(flavour: Flavour, least_places: usize) {
    let prey = Prey::new();
    at_daemon(&format!(
        "mount -t tmpfs t-escape {MOUNTED}; cp -r {IN_USR}/. {MOUNTED}"
    ));
    let mount = match flavour {
        // QEMU is not root.
        Flavour::Generic => format!("host-bind:/mnt={IN_USR},ro"),
        Flavour::Cloud => format!("host-bind:/mnt={PRIVATE},ro"),
    };
    let program = crate::command_program();
    let mut command = Command::new(program);
    command.args([
        "-c",
        &qemu_uri().unwrap(),
        "-p",
        "--kernver",
        &release(flavour),
    ]);
    let places = [IN_USR, PRIVATE, MOUNTED, "/mnt", "/mnt/mounted"];
    command.args(["-m", &mount, "--", "/usr/bin/python3", "-ISc", ATTEMPTS]);
    command.args(places);
    let done = finish(command, "");
    at_daemon(&format!("umount {MOUNTED}"));
    assert_refused(&done, least_places);
    prey.assert_untouched();
}

#[test]
fn root_of_a_command_cannot_write_to_read_only_9p() {
    let Some(test) = Test::begin("root_of_a_command_cannot_write_to_read_only_9p") else {
        return;
    };
    attack_from_a_command(Flavour::Generic, 2);
    test.end();
}

#[test]
fn root_of_a_command_cannot_write_to_read_only_virtiofs() {
    let Some(test) = Test::begin("root_of_a_command_cannot_write_to_read_only_virtiofs") else {
        return;
    };
    // Each tag can be mounted many times.
    attack_from_a_command(Flavour::Cloud, 6);
    test.end();
}

/// Attacks as root of a service that has a private directory, which is shared over virtiofs on each kernel.
fn attack_from_a_service(flavour: Flavour) {
    let (unit, prey) = (crate::unit(), Prey::new());
    let bind = format!("host-bind:/mnt/private={PRIVATE},ro");
    let create = ["create", "-N", "none", "-u", "t-esc.service", "t-esc-ro"];
    let uri = qemu_uri().unwrap();
    let kernel = release(flavour);
    ok(&[
        &["-c", &uri],
        &create[..],
        &["--kernver", &kernel, "-m", &bind],
    ]
    .concat());
    ok(&["start", "t-esc-ro"]);
    let in_usr = IN_USR.strip_prefix("/usr").unwrap();
    let places = [IN_USR, in_usr, "/mnt/private", ""];
    let attempt = [
        "execute",
        "t-esc-ro",
        "--",
        "/usr/bin/python3",
        "-ISc",
        ATTEMPTS,
    ];
    let done = run(&[&attempt[..], &places].concat());
    assert_refused(&done, 2);
    prey.assert_untouched();
    // A mount that the host makes while the machine runs is read-only, too.
    at_daemon(&format!(
        "mount -t tmpfs t-escape {MOUNTED}; cp -r {IN_USR}/. {MOUNTED}"
    ));
    let done = inside("t-esc-ro", "echo changed >/mnt/private/mounted/file");
    assert!(done.stderr.contains("Read-only file system"), "{done:?}");
    at_daemon(&format!("umount {MOUNTED}"));
    let said = ok(&["security", "t-esc-ro"]);
    assert!(
        said.contains("only its own tree; the host refuses to write to /usr"),
        "{said}"
    );
    let said = run(&["inspect", "t-esc-ro"]);
    assert!(!said.stdout.contains("nothing of the host"), "{said:?}");
    ok(&["delete", "--force", "t-esc-ro"]);
    drop((unit, prey));
}

#[test]
#[ignore = "slow: make test-slow"]
fn root_of_a_service_cannot_write_to_read_only_9p() {
    let Some(test) = Test::begin("root_of_a_service_cannot_write_to_read_only_9p") else {
        return;
    };
    attack_from_a_service(Flavour::Generic);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn root_of_a_service_cannot_write_to_read_only_virtiofs() {
    let Some(test) = Test::begin("root_of_a_service_cannot_write_to_read_only_virtiofs") else {
        return;
    };
    attack_from_a_service(Flavour::Cloud);
    test.end();
}
