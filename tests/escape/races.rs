//! Host commands on a tree that the sandbox changes at the same time.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::Mode;

use crate::support::{Done, HostFile, TREES, Test, finish, inside, ok, program, run};
use crate::{MARKER, grep, place, unit};

/// Directory of the host with the layout of a tree, which must never be reached.
const OUTSIDE: &str = "/var/lib/t-escape-outside";

/// Seconds after which a command counts as hung. A single question to a sandbox may take 120.
const PATIENCE: &str = "400";

/// Runs a command that must end, whatever the tree holds; its exit status is not checked.
pub fn ends(words: &[&str]) -> Done {
    let mut command = Command::new("prlimit");
    // A bound on memory, so a command that keeps unlimited input fails.
    command.args(["--as=1073741824", "timeout", PATIENCE]);
    command.arg(program().get_program()).args(words);
    let done = finish(command, "");
    assert_ne!(done.code, 124, "{words:?} hangs: {done:?}");
    let has_crashed = done.code == 101 || !(0..128).contains(&done.code) && done.code != 255;
    assert!(!has_crashed, "{words:?} crashes: {done:?}");
    let said = [&done.stdout, &done.stderr];
    assert!(
        !said.iter().any(|text| text.contains(MARKER)),
        "{words:?} tells it: {done:?}"
    );
    assert!(
        !said.iter().any(|text| text.contains('\u{1b}')),
        "{words:?} speaks to the terminal: {done:?}"
    );
    done
}

/// Returns everything about the outside directory that a command could change.
fn outside() -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(OUTSIDE)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let at = fs::symlink_metadata(&path).unwrap();
            let content = at.is_file().then(|| fs::read_to_string(&path).unwrap());
            found.push(format!(
                "{path:?} {:o} {}:{} {content:?}",
                at.mode(),
                at.uid(),
                at.gid()
            ));
            if at.is_dir() {
                dirs.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Makes, for each path, a link to the outside directory to exchange it with.
fn twins(tree: &Path, paths: &[&str]) -> Vec<PathBuf> {
    let mut pairs = Vec::new();
    for path in paths {
        let real = tree.join(path);
        let is_file = real.is_file();
        let twin = real.with_file_name(format!(
            ".twin-{}",
            real.file_name().unwrap().to_str().unwrap()
        ));
        let to = Path::new(OUTSIDE).join(path);
        match is_file {
            true => {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(&to, MARKER).unwrap();
            }
            false => {
                fs::create_dir_all(&real).unwrap();
                fs::create_dir_all(&to).unwrap();
                for name in ["file", "hostname", "machine-id", "passwd", "system.journal"] {
                    fs::write(to.join(name), MARKER).unwrap();
                    let own = real.join(name);
                    if !own.exists() {
                        fs::write(own, "own").unwrap();
                    }
                }
            }
        }
        symlink(&to, &twin).unwrap();
        pairs.extend([real, twin]);
    }
    pairs
}

/// Has root inside exchange each pair without end. Returns `None` if the sandbox does not run.
fn exchanging(name: &str, tree: &Path, pairs: &[PathBuf]) -> Option<Child> {
    let inside = pairs
        .iter()
        .map(|path| Path::new("/").join(path.strip_prefix(tree).unwrap()));
    let mut command = program();
    command.args(["execute", name, "--", "/srv/attacker", "restless"]);
    command
        .args(inside)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    if line.trim() == "exchanging" {
        return Some(child);
    }
    child.wait().unwrap();
    None
}

/// Gives the exchanged files their names back.
fn put_back(pairs: &[PathBuf]) {
    // Outermost first: the paths below lead through it.
    for pair in pairs.chunks_exact(2).rev() {
        if pair[0].is_symlink() {
            renameat2(
                nix::fcntl::AT_FDCWD,
                &pair[0],
                nix::fcntl::AT_FDCWD,
                &pair[1],
                RenameFlags::RENAME_EXCHANGE,
            )
            .unwrap();
        }
    }
}

/// Runs every verb `rounds` times on a sandbox whose root exchanges directories with links that lead out of its tree.
fn race(rounds: u32) {
    let unit = unit();
    let _outside = HostFile::new(&format!("{OUTSIDE}/file"), MARKER);
    ok(&["create", "-N", "none", "-u", "t-esc.service", "t-esc"]);
    place("t-esc");
    ok(&["start", "t-esc"]);
    let tree = Path::new(TREES).join("t-esc");
    inside("t-esc", "journalctl --flush; journalctl --sync");
    let id = fs::read_to_string(tree.join("etc/machine-id")).unwrap();
    let journal = format!("var/log/journal/{}", id.trim());
    let paths = [
        "etc/systemd",
        "etc/hostname",
        "etc/hosts",
        "etc/machine-id",
        "etc/passwd",
        "etc/ssl",
        "etc/security",
        "var/log",
        "var/log/journal",
        &journal,
        "var/lib/virt-sandbox",
        "var/lib/dbus",
        "root/d",
        "srv/d",
        "home/d",
        "srv/d/deep",
        "etc/logrotate.d",
    ];
    // Innermost first: a link is made while its parent is still a directory.
    let mut pairs = Vec::new();
    for path in paths.iter().rev() {
        pairs.extend(twins(&tree, &[path]));
    }
    let before = outside();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("t.tar");
    let archive = archive.to_str().unwrap();
    let running: [&[&str]; 15] = [
        &["logs", "t-esc"],
        &["logs", "-o", "cat", "t-esc"],
        &["status", "t-esc"],
        &["list"],
        &["stats", "t-esc"],
        &["inspect", "t-esc"],
        &["execute", "t-esc", "--", "true"],
        &["rotate", "t-esc"],
        &["upgrade", "--dry-run", "t-esc"],
        &["clone", "t-esc", "t-esc2"],
        &["export", "t-esc", "-o", archive],
        &["set", "t-esc", "pids=300"],
        &["upgrade", "t-esc"],
        &["reload", "t-esc"],
        &["stop", "t-esc"],
    ];
    // The tree as the exchange left it.
    let stopped: [&[&str]; 6] = [
        &["delete", "--force", "t-esc2"],
        &["clone", "t-esc", "t-esc2"],
        &["upgrade", "t-esc"],
        &["start", "t-esc"],
        &["stop", "t-esc"],
        &["delete", "--force", "t-esc2"],
    ];
    for round in 0..rounds {
        let restless = exchanging("t-esc", &tree, &pairs);
        assert!(restless.is_some(), "round {round}: it does not run");
        for verb in running.iter().chain(&stopped) {
            let began = std::time::Instant::now();
            let ended = ends(verb);
            println!(
                "{round} {verb:?}: {} after {:.1} s {}",
                ended.code,
                began.elapsed().as_secs_f32(),
                ended.stderr.lines().next().unwrap_or("")
            );
            assert_eq!(outside(), before, "{verb:?}");
            let copies = [archive, &format!("{TREES}/t-esc2")];
            assert_eq!(finish(grep(&copies), "").stdout, "", "{verb:?} copied it");
        }
        restless.unwrap().wait().unwrap();
        put_back(&pairs);
        ok(&["start", "t-esc"]);
        let _ = fs::remove_file(archive);
    }
    // During the exchange, once more.
    let restless = exchanging("t-esc", &tree, &pairs);
    let ended = ends(&["delete", "--force", "t-esc"]);
    assert_eq!((ended.code, outside()), (0, before), "{ended:?}");
    restless.unwrap().wait().unwrap();
    drop(unit);
}

#[test]
fn host_commands_follow_no_exchanged_links() {
    let Some(test) = Test::begin("host_commands_follow_no_exchanged_links") else {
        return;
    };
    race(1);
    test.end();
}

#[test]
#[ignore = "takes minutes: make test-slow"]
fn host_commands_follow_no_exchanged_links_in_many_rounds() {
    let Some(test) = Test::begin("host_commands_follow_no_exchanged_links_in_many_rounds") else {
        return;
    };
    race(10);
    test.end();
}

/// Fills a tree with every kind of file that root inside can make.
fn litter(tree: &Path) {
    for dir in ["etc", "srv", "var/lib", "root", "home"] {
        let dir = tree.join(dir);
        nix::unistd::mkfifo(&dir.join("fifo"), Mode::S_IRWXU).unwrap();
        drop(UnixListener::bind(dir.join("socket")).unwrap());
        for name in [
            &b"a\nb"[..],
            b"\xff\xfe",
            b"-rf",
            b"--",
            b"\x1b]0;owned\x07\x1b[2J",
            b"%s%n",
            b" ",
            b"a\"b",
            b"'",
            b"\\",
            b"]]>",
            &[b'x'; 255],
        ] {
            let name = OsStr::from_bytes(name);
            fs::write(dir.join(name), "own").unwrap();
            let short = OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]);
            let with = |front: &str| {
                let mut full = OsStr::new(front).to_owned();
                full.push(short);
                dir.join(full)
            };
            fs::create_dir(with("d")).unwrap();
            symlink(Path::new(OUTSIDE).join("file"), with("l")).unwrap();
        }
    }
    let sparse = File::create(tree.join("srv/sparse")).unwrap();
    sparse.set_len(1 << 42).unwrap();
    let many = tree.join("srv/many");
    fs::create_dir(&many).unwrap();
    for index in 0..5000 {
        fs::write(many.join(index.to_string()), "").unwrap();
    }
    let mode = fs::Permissions::from_mode(0o6755);
    fs::set_permissions(tree.join("srv/many/1"), mode).unwrap();
}

#[test]
fn host_commands_end_whatever_is_in_a_tree() {
    let Some(test) = Test::begin("host_commands_end_whatever_is_in_a_tree") else {
        return;
    };
    let unit = unit();
    let _outside = HostFile::new(&format!("{OUTSIDE}/file"), MARKER);
    ok(&[
        "create",
        "-N",
        "none",
        "--timeout",
        "30",
        "-u",
        "t-esc.service",
        "t-esc",
    ]);
    let tree = Path::new(TREES).join("t-esc");
    litter(&tree);
    let before = outside();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("t.tar.zst");
    let archive = archive.to_str().unwrap();
    for (verb, code) in [
        (&["list"][..], 0),
        (&["status", "t-esc"], 0),
        (&["inspect", "t-esc"], 0),
        (&["upgrade", "--dry-run", "t-esc"], 0),
        (&["clone", "t-esc", "t-esc2"], 0),
        (&["export", "t-esc", "-o", archive], 0),
        (&["start", "t-esc"], 0),
        (&["logs", "t-esc"], 0),
        (&["execute", "t-esc", "--", "true"], 0),
        (&["rotate", "t-esc"], 0),
        (&["stop", "t-esc"], 0),
        (&["upgrade", "t-esc"], 0),
        (&["rename", "t-esc", "t-esc3"], 0),
        (&["delete", "--force", "t-esc2"], 0),
        (&["delete", "--force", "t-esc3"], 0),
        (&["import", archive], 0),
    ] {
        let done = ends(verb);
        assert_eq!(done.code, code, "{verb:?}: {done:?}");
        assert_eq!(outside(), before, "{verb:?}");
    }
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

#[test]
#[ignore = "waits for what a start and a stop may take: make test-slow"]
fn named_pipes_in_a_tree_do_not_hang_commands() {
    let Some(test) = Test::begin("named_pipes_in_a_tree_do_not_hang_commands") else {
        return;
    };
    let unit = unit();
    let _outside = HostFile::new(&format!("{OUTSIDE}/file"), MARKER);
    let before = outside();
    let create = ["create", "-N", "none", "--timeout", "30", "-u"];
    ok(&[&create[..], &["t-esc.service", "t-esc"]].concat());
    let tree = Path::new(TREES).join("t-esc");
    // Named pipes in place of files that every start and every command reads.
    for file in [
        "etc/hostname",
        "etc/passwd",
        "etc/machine-id",
        "etc/os-release",
        "etc/localtime",
        "etc/nsswitch.conf",
    ] {
        let file = tree.join(file);
        let _ = fs::remove_file(&file);
        nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    }
    for verb in [
        &["list"][..],
        &["status", "t-esc"],
        &["inspect", "t-esc"],
        &["upgrade", "--dry-run", "t-esc"],
        &["upgrade", "t-esc"],
        &["clone", "t-esc", "t-esc2"],
        &["start", "t-esc"],
        &["list"],
        &["delete", "--force", "t-esc"],
    ] {
        let done = ends(verb);
        println!("{verb:?}: {} {}", done.code, done.stderr);
        assert_eq!(outside(), before, "{verb:?}");
    }
    let _ = run(&["delete", "--force", "t-esc2"]);
    drop(unit);
    test.end();
}

#[test]
fn a_tree_deeper_than_a_path_is_long_is_refused_or_removed() {
    let Some(test) = Test::begin("a_tree_deeper_than_a_path_is_long_is_refused_or_removed") else {
        return;
    };
    let unit = unit();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("t.tar.zst");
    let archive = archive.to_str().unwrap();
    let tree = Path::new(TREES).join("t-esc");
    // Verbs that walk the tree refuse; delete removes everything.
    ok(&["create", "-N", "none", "-u", "t-esc.service", "t-esc"]);
    let make = "import os\nfor i in range(3000):\n os.mkdir('d'); os.chdir('d')\n";
    let mut python = Command::new("python3");
    python.args(["-c", make]).current_dir(tree.join("srv"));
    assert_eq!(finish(python, "").code, 0);
    for verb in [
        &["clone", "t-esc", "t-esc2"][..],
        &["export", "t-esc", "-o", archive],
        &["upgrade", "t-esc"],
    ] {
        let done = ends(verb);
        println!("{verb:?}: {} {}", done.code, done.stderr);
        assert!(done.stderr.len() < 2000, "{verb:?}");
    }
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}

#[test]
#[ignore = "waits for the 90 seconds that a stop may take: make test-slow"]
fn an_unresponsive_sandbox_can_be_stopped() {
    let Some(test) = Test::begin("an_unresponsive_sandbox_can_be_stopped") else {
        return;
    };
    let unit = unit();
    ok(&["create", "-N", "none", "-u", "t-esc.service", "t-esc"]);
    ok(&["start", "t-esc"]);
    // Host commands inside talk to a systemd that root inside has replaced by one that never answers.
    let deaf = "umount -l /run/systemd/private 2>/dev/null; rm -f /run/systemd/private; \
                (exec nc -lU /run/systemd/private || exec python3 -c 'import socket,time\ns=socket.socket(1)\ns.bind(\"/run/systemd/private\")\ns.listen(9)\ntime.sleep(9999)') >/dev/null 2>&1 & sleep 1";
    inside("t-esc", deaf);
    let mut stop = Command::new("timeout");
    stop.arg("200")
        .arg(program().get_program())
        .args(["stop", "t-esc"]);
    let done = finish(stop, "");
    assert_eq!(done.code, 0, "{done:?}");
    ok(&["delete", "--force", "t-esc"]);
    drop(unit);
    test.end();
}
