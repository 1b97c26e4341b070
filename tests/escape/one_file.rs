//! A single file of the host in a machine: root inside can mount each share as it likes, but must not reach the rest of the
//! file's directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use test_harness::guest::{Flavour, Kernel};
use test_harness::libvirtd::qemu_uri;

use crate::MARKER;
use crate::support::{Done, HostFile, Test, finish, inside, ok};

/// The directory on the host.
const OUTER: &str = "/var/lib/t-escape-one-file";

/// File of the host that is mounted at [`INSIDE`].
const FILE: &str = "/var/lib/t-escape-one-file/app.conf";
const INSIDE: &str = "/srv/inside.conf";

/// Mounts every share once more, writable, and tries everything that a directory allows on the file's share.
const ATTEMPTS: &str = r#"
for share in $(seq 0 30); do for type in virtiofs 9p; do
    place=/run/t-escape-$share-$type; mkdir -p $place; options=rw
    [ $type = virtiofs ] || options=rw,trans=virtio,version=9p2000.L
    mount -t $type -o $options share$share $place 2>/dev/null || continue
    [ -e $place/app.conf ] || continue
    echo "found $type"; ls -A $place
    for there in $place $place/.. $place/../.. $place/app.conf/..; do
        cat $there/beside $there/dir/beside; echo changed >$there/beside; rm -f $there/beside; mkdir $there/made; echo new >$there/new
        ln -s / $there/link; ln $there/app.conf $there/second; mv $there/app.conf $there/moved; mknod $there/node b 254 0
        cat $there/node
    done
done; done 2>/dev/null
"#;

/// Files of the host: the shared one, and two hidden ones beside it.
struct Prey {
    _files: [HostFile; 3],
}

impl Prey {
    fn new() -> Self {
        let files = [
            ("app.conf", "first"),
            ("beside", MARKER),
            ("dir/beside", MARKER),
        ];
        let files = files.map(|(name, content)| HostFile::new(&format!("{OUTER}/{name}"), content));
        // Only the host's root may enter: if QEMU could read the directory, another share would show the hidden files.
        fs::set_permissions(OUTER, Permissions::from_mode(0o700)).unwrap();
        Self { _files: files }
    }

    /// Checks that nothing in the directory changed except the content of the shared file.
    fn assert_untouched(&self) {
        let mut names: Vec<_> = fs::read_dir(OUTER)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["app.conf", "beside", "dir"]);
        for path in ["beside", "dir/beside"] {
            assert_eq!(
                fs::read_to_string(format!("{OUTER}/{path}")).unwrap(),
                MARKER
            );
        }
    }
}

/// Checks that the share holds the file and nothing else.
fn assert_alone(done: &Done) {
    assert!(!done.stdout.contains(MARKER), "{done:?}");
    let lines: Vec<&str> = done
        .stdout
        .lines()
        .filter(|line| !line.starts_with("said "))
        .collect();
    assert_eq!(lines, ["found virtiofs", "app.conf"], "{done:?}");
}

fn release(flavour: Flavour) -> String {
    Kernel::find(flavour).unwrap().version
}

#[test]
#[ignore = "slow: make test-slow"]
fn root_of_a_command_reaches_a_shared_file_alone() {
    let Some(test) = Test::begin("root_of_a_command_reaches_a_shared_file_alone") else {
        return;
    };
    let prey = Prey::new();
    for (options, after) in [("", "first\nwritten\n"), (",ro", "first\nwritten\n")] {
        let mut command = Command::new(crate::command_program());
        let mount = format!("host-bind:{INSIDE}={FILE}{options}");
        command.args([
            "-c",
            &qemu_uri().unwrap(),
            "-p",
            "--kernver",
            &release(Flavour::Generic),
        ]);
        let script = format!(
            "echo; echo \"said $(head -n 1 {INSIDE})\"; (echo; echo written) >>{INSIDE}; {ATTEMPTS}"
        );
        command.args(["-m", &mount, "--", "sh", "-c", &script]);
        let done = finish(command, "");
        assert!(done.stdout.contains("said first"), "{done:?}");
        assert_alone(&Done {
            stdout: done.stdout.trim_start().to_owned(),
            ..done
        });
        assert_eq!(fs::read_to_string(FILE).unwrap(), after);
        prey.assert_untouched();
    }
    drop(prey);
    test.end();
}

fn attack_from_a_service(flavour: Flavour) {
    let (unit, prey) = (crate::unit(), Prey::new());
    let bind = format!("host-bind:{INSIDE}={FILE}");
    let create = ["create", "-N", "none", "-u", "t-esc.service", "t-esc-one"];
    let (uri, kernel) = (qemu_uri().unwrap(), release(flavour));
    ok(&[
        &["-c", &uri],
        &create[..],
        &["--kernver", &kernel, "-m", &bind],
    ]
    .concat());
    ok(&["start", "t-esc-one"]);
    assert_alone(&inside("t-esc-one", ATTEMPTS));
    prey.assert_untouched();
    let done = inside(
        "t-esc-one",
        &format!("echo written >{INSIDE} && cat {INSIDE}"),
    );
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "written\n"),
        "{done:?}"
    );
    assert_eq!(fs::read_to_string(FILE).unwrap(), "written\n");
    // A change on the host is seen inside: it is the same file.
    fs::write(FILE, "of the host").unwrap();
    assert_eq!(
        inside("t-esc-one", &format!("cat {INSIDE}")).stdout,
        "of the host"
    );
    ok(&["delete", "--force", "t-esc-one"]);
    drop((unit, prey));
}

#[test]
#[ignore = "slow: make test-slow"]
fn root_of_a_service_reaches_a_shared_file_alone_with_9p() {
    let Some(test) = Test::begin("root_of_a_service_reaches_a_shared_file_alone_with_9p") else {
        return;
    };
    attack_from_a_service(Flavour::Generic);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn root_of_a_service_reaches_a_shared_file_alone_without_9p() {
    let Some(test) = Test::begin("root_of_a_service_reaches_a_shared_file_alone_without_9p") else {
        return;
    };
    attack_from_a_service(Flavour::Cloud);
    test.end();
}
