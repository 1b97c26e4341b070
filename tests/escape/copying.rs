//! Attacks on `create` by an account of the host that changes the files to be copied, before or during the copy.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{HostFile, TREES, Test, finish, ok, run};
use crate::{MARKER, attacker, grep};

/// User id of the account that owns the state and may not read root's files.
const NOBODY: u32 = 65534;
const STATE: &str = "/var/lib/t-esc-state";
const PRIVATE: &str = "/root/t-esc-copying";
const ELSEWHERE: &str = "/opt/t-esc-copying";

/// Number of files in the directory that is exchanged with a link to other files of the same names.
const FILES: usize = 300;

/// A service whose account owns its state, and files that this account may not read.
struct Prey {
    _unit: HostFile,
    _files: [HostFile; 4],
}

impl Prey {
    fn new(more: &str) -> Self {
        let unit = format!(
            "[Service]\nUser=nobody\nStateDirectory=t-esc-state\nExecStart=/bin/sleep infinity\n{more}"
        );
        let files = [
            HostFile::new(&format!("{STATE}/d/f"), "own"),
            HostFile::new(&format!("{PRIVATE}/f"), MARKER),
            HostFile::new(&format!("{ELSEWHERE}/below/f"), MARKER),
            HostFile::script("/var/lib/t-esc-attacker/attacker", ""),
        ];
        for private in [PRIVATE, ELSEWHERE] {
            fs::set_permissions(private, fs::Permissions::from_mode(0o700)).unwrap();
        }
        for index in 0..FILES {
            fs::write(format!("{STATE}/d/f{index}"), "own").unwrap();
            fs::write(format!("{PRIVATE}/f{index}"), MARKER).unwrap();
        }
        symlink(PRIVATE, format!("{STATE}/link")).unwrap();
        let owned = Command::new("chown")
            .args(["-hR", &NOBODY.to_string(), STATE])
            .status();
        assert!(owned.unwrap().success());
        fs::copy(attacker(), "/var/lib/t-esc-attacker/attacker").unwrap();
        Self {
            _unit: HostFile::unit("t-esc-copying.service", &unit),
            _files: files,
        }
    }
}

/// A process of the account that keeps exchanging its directory with a link; killed on drop.
struct Restless(Child);

impl Restless {
    fn new() -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &NOBODY.to_string(), "--clear-groups", "--"])
            .args(["/var/lib/t-esc-attacker/attacker", "restless"])
            .args(["d", "link"].map(|name| Path::new(STATE).join(name)))
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "exchanging");
        Self(child)
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tries to create the sandbox, and checks that it holds nothing of root's. Returns whether `create` succeeded.
fn is_made() -> bool {
    let words = ["create", "-N", "none", "--state", "copy"];
    let unit = ["-u", "t-esc-copying.service", "t-esc"];
    let made = run(&[&words[..], &unit].concat());
    let tree = Path::new(TREES).join("t-esc");
    if made.code != 0 {
        assert!(made.stderr.contains("symbolic link"), "{made:?}");
        assert!(!tree.exists(), "{made:?}");
        return false;
    }
    let found = finish(grep(&[tree.to_str().unwrap()]), "").stdout;
    assert_eq!(found, "", "root's files are in the sandbox");
    true
}

fn race(rounds: u32) {
    let prey = Prey::new("");
    let restless = Restless::new();
    let mut made = 0;
    for _ in 0..rounds {
        if is_made() {
            made += 1;
            ok(&["delete", "t-esc"]);
        }
    }
    println!("{made} of {rounds} were made");
    drop(restless);
    // Once nobody changes the files, `create` succeeds.
    assert!(is_made());
    let copied = PathBuf::from(format!("{TREES}/t-esc{STATE}"));
    assert!(copied.join("link").symlink_metadata().is_ok() && copied.join("d").exists());
    ok(&["delete", "t-esc"]);
    drop(prey);
}

#[test]
fn create_copies_nothing_through_exchanged_links() {
    const NAME: &str = "create_copies_nothing_through_exchanged_links";
    let Some(test) = Test::begin(NAME) else {
        return;
    };
    race(10);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn create_copies_nothing_through_exchanged_links_in_many_rounds() {
    const NAME: &str = "create_copies_nothing_through_exchanged_links_in_many_rounds";
    let Some(test) = Test::begin(NAME) else {
        return;
    };
    race(200);
    test.end();
}

#[test]
fn create_follows_no_links_in_state_of_an_account() {
    let Some(test) = Test::begin("create_follows_no_links_in_state_of_an_account") else {
        return;
    };
    // Paths from the unit and the configuration: through a link, to a link, and both.
    let prey = Prey::new(&format!(
        "WorkingDirectory=-{STATE}/way/below\nReadWritePaths=-{STATE}/end -{STATE}/way -{STATE}/link/f0\n"
    ));
    for (link, target) in [("way", ELSEWHERE), ("end", ELSEWHERE)] {
        let link = format!("{STATE}/{link}");
        symlink(target, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(NOBODY), None).unwrap();
    }
    assert!(is_made());
    ok(&["delete", "t-esc"]);
    drop(prey);
    test.end();
}

#[test]
fn create_follows_a_link_that_root_made() {
    let Some(test) = Test::begin("create_follows_a_link_that_root_made") else {
        return;
    };
    let unit = HostFile::unit(
        "t-esc-copying.service",
        "[Service]\nUser=nobody\nStateDirectory=t-esc-state\nExecStart=/bin/sleep infinity\n",
    );
    let state = HostFile::new(&format!("{ELSEWHERE}/state/file"), "own");
    chown(format!("{ELSEWHERE}/state"), Some(NOBODY), None).unwrap();
    let link = HostFile::link(STATE, &format!("{ELSEWHERE}/state"));
    assert!(is_made());
    let copied = fs::read_to_string(format!("{TREES}/t-esc{STATE}/file")).unwrap();
    assert_eq!(copied, "own");
    ok(&["delete", "t-esc"]);
    drop((link, state, unit));
    test.end();
}

/// Configuration and links made by the service's account name files it may not read, and files it may read.
#[test]
fn configuration_of_an_account_names_only_files_it_can_read() {
    const NAME: &str = "configuration_of_an_account_names_only_files_it_can_read";
    const CONF: &str = "/etc/t-esc-conf";
    const ROOTS: &str = "/etc/t-esc-roots";
    let Some(test) = Test::begin(NAME) else {
        return;
    };
    let names = ["named", "linked", "by-unit", "told-by-roots"];
    let prey = Prey::new(&format!(
        "ConfigurationDirectory=t-esc-conf\nEnvironmentFile=-{CONF}/app.conf\nEnvironmentFile=-{CONF}/to-file\n\
         EnvironmentFile=-{CONF}/to-text\nExecStartPre=/bin/true {CONF}/to-unit\n"
    ));
    let mut files: Vec<HostFile> = names
        .map(|name| HostFile::new(&format!("{ROOTS}/{name}"), MARKER))
        .into();
    fs::set_permissions(ROOTS, fs::Permissions::from_mode(0o700)).unwrap();
    for path in ["/var/lib/t-esc-roots/file", "/srv/t-esc-roots/file"] {
        files.push(HostFile::new(path, MARKER));
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    files.push(HostFile::new(
        "/root/t-esc-told",
        &format!("key={ROOTS}/told-by-roots\n"),
    ));
    for (path, mode) in [
        ("/srv/t-esc-open/file", 0o644),
        ("/etc/t-esc-keys/key", 0o640),
    ] {
        files.push(HostFile::new(path, "theirs"));
        chown(path, Some(0), Some(NOBODY)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    files.push(HostFile::new(
        &format!("{CONF}/app.conf"),
        &format!(
            "key={ROOTS}/named\ndata=/var/lib/t-esc-roots\nsite=/srv/t-esc-roots\nfile=/srv/t-esc-roots/file\n\
             own-key=/etc/t-esc-keys/key\nown-site=/srv/t-esc-open\n"
        ),
    ));
    for (link, target) in [
        ("to-file", format!("{ROOTS}/linked")),
        ("to-unit", format!("{ROOTS}/by-unit")),
        ("to-text", "/root/t-esc-told".to_owned()),
    ] {
        files.push(HostFile::link(&format!("{CONF}/{link}"), &target));
    }
    let owned = Command::new("chown").args(["-hR", "nobody", CONF]).status();
    assert!(owned.unwrap().success());
    assert!(is_made());
    for path in ["/etc/t-esc-keys/key", "/srv/t-esc-open/file"] {
        let copied = fs::read_to_string(format!("{TREES}/t-esc{path}"));
        assert_eq!(copied.unwrap(), "theirs", "{path}");
    }
    ok(&["delete", "t-esc"]);
    // Configuration that root wrote is trusted, and so are root's links.
    let owned = Command::new("chown").args(["-hR", "root", CONF]).status();
    assert!(owned.unwrap().success());
    ok(&[
        "create",
        "-N",
        "none",
        "--state",
        "copy",
        "-u",
        "t-esc-copying.service",
        "t-esc",
    ]);
    for name in names {
        let copied = fs::read_to_string(format!("{TREES}/t-esc{ROOTS}/{name}"));
        assert_eq!(copied.unwrap(), MARKER, "{name}");
    }
    ok(&["delete", "t-esc"]);
    drop((prey, files));
    test.end();
}
