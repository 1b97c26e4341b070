//! Locations of trees on the host, and their removal.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::support::{HostFile, TREES, Test, finish, ok, run, service_program};

/// A user of the host.
const USER: u32 = 65533;

const UNIT: &str = "t-esc-place.service";

fn unit() -> HostFile {
    HostFile::unit(UNIT, "[Service]\nExecStart=/bin/sleep infinity\n")
}

/// Another user owns the directory where a sandbox is to be created: set-user-ID programs of root inside would be theirs to run.
#[test]
fn trees_are_made_only_where_nobody_but_root_can_write() {
    let Some(test) = Test::begin("trees_are_made_only_where_nobody_but_root_can_write") else {
        return;
    };
    let unit = unit();
    let open = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let tree = open.path().join("t-esc");
    let theirs = open.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(USER), None).unwrap();
    let create = |base: &Path| {
        let words = ["create", "-N", "none", "-u", UNIT, "--path"];
        run(&[&words[..], &[base.to_str().unwrap(), "t-esc"]].concat())
    };
    fs::create_dir(&tree).unwrap();
    chown(&tree, Some(USER), None).unwrap();
    for base in [open.path(), &theirs] {
        let made = create(base);
        assert!(
            made.code != 0 && made.stderr.contains("belongs to user"),
            "{made:?}"
        );
    }
    assert!(fs::read_dir(&tree).unwrap().next().is_none() && !theirs.join("t-esc").exists());
    fs::remove_dir(&tree).unwrap();
    // A path below a sticky directory is accepted if nobody else has made anything there.
    assert_eq!(create(open.path()).code, 0);
    assert_eq!(
        fs::metadata(&tree).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    ok(&["delete", "t-esc"]);
    drop(unit);
    test.end();
}

/// Root inside nests more directories than a process can have descriptors, and deeper than PATH_MAX.
#[test]
fn a_very_deep_tree_can_be_removed() {
    let Some(test) = Test::begin("a_very_deep_tree_can_be_removed") else {
        return;
    };
    let unit = unit();
    ok(&["create", "-N", "none", "-u", UNIT, "t-esc"]);
    let dig = "import os\nfor _ in range(20000):\n    os.mkdir('d'); os.chdir('d')";
    let mut python = Command::new("python3");
    python
        .args(["-c", dig])
        .current_dir(Path::new(TREES).join("t-esc/srv"));
    assert!(python.status().unwrap().success());
    let mut delete = Command::new("sh");
    delete
        .args(["-c", "ulimit -n 1024; exec \"$0\" delete t-esc"])
        .arg(service_program());
    let deleted = finish(delete, "");
    assert_eq!(deleted.code, 0, "{deleted:?}");
    assert!(!Path::new(TREES).join("t-esc").exists());
    drop(unit);
    test.end();
}
