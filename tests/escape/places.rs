//! Where trees of sandboxes are on the host, and how they go.

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

/// A user of the host waits where a sandbox is going to be: set-user-ID programs of root inside would be theirs.
#[test]
fn a_place_that_somebody_else_has_becomes_no_sandboxs() {
    let Some(test) = Test::begin("a_place_that_somebody_else_has_becomes_no_sandboxs") else {
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
    // Where nobody else has been, the sticky directory is good.
    assert_eq!(create(open.path()).code, 0);
    assert_eq!(
        fs::metadata(&tree).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    ok(&["delete", "t-esc"]);
    drop(unit);
    test.end();
}

/// Root inside makes directories in directories, more than there can be descriptors, and deeper than any path is long.
#[test]
fn a_tree_goes_however_deep_it_is() {
    let Some(test) = Test::begin("a_tree_goes_however_deep_it_is") else {
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
