//! Modes of files that the programs make on the host, whatever the caller's umask.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Done, TREES, Test, finish, says, service_program};
use crate::{command_program, unit};

const CONFIGS: &str = "/etc/libvirt-sandbox";
const STATES: &str = "/var/lib/libvirt-sandbox";
const RUNTIME: &str = "/run/virt-sandbox";

/// Runs a program under test with a umask.
fn with_umask(umask: &str, program: &Path, words: &[&str]) -> Done {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
        .arg(program);
    command.args(words);
    let done = finish(command, "");
    assert_eq!(done.code, 0, "umask {umask}: {words:?}: {done:?}");
    done
}

/// Calls `look` while a command runs in a sandbox.
fn while_it_runs(umask: &str, program: &Path, look: impl FnOnce()) {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
        .arg(program);
    command.args(["--", "sh", "-c", "echo up; read line"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim(), "up");
    look();
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// Collects files below `top` that other users may change; follows no links, and skips trees, whose modes are the sandbox's.
fn open_to_others(top: &Path, found: &mut Vec<PathBuf>) {
    let Ok(metadata) = fs::symlink_metadata(top) else {
        return;
    };
    let is_shared = metadata.mode() & 0o1000 != 0;
    if !metadata.is_symlink() && metadata.mode() & 0o022 != 0 && !is_shared {
        found.push(top.to_owned());
    }
    if metadata.is_dir() && top.parent() != Some(Path::new(TREES)) {
        for entry in fs::read_dir(top).into_iter().flatten().flatten() {
            open_to_others(&entry.path(), found);
        }
    }
}

#[test]
fn other_users_cannot_change_files_that_the_programs_make() {
    let Some(test) = Test::begin("other_users_cannot_change_files_that_the_programs_make") else {
        return;
    };
    let unit = unit();
    let (service, command) = (service_program(), command_program());
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("t-esc.tar");
    let archive = archive.to_str().unwrap();
    for umask in ["000", "077"] {
        // Removed so that the next command makes it again.
        let _ = fs::remove_dir(Path::new(CONFIGS).join("services"));
        let create = ["create", "-N", "none", "-u", "t-esc.service"];
        let image = [&create[..], &["--imagesize", "200M", "t-esc4"]].concat();
        let verbs: [&[&str]; 14] = [
            &[&create[..], &["t-esc"]].concat(),
            &["set", "t-esc", "pids=300"],
            &["start", "t-esc"],
            &["execute", "t-esc", "--", "true"],
            &["enable", "t-esc"],
            &["upgrade", "t-esc"],
            &["stop", "t-esc"],
            &["clone", "t-esc", "t-esc2"],
            &["rename", "t-esc2", "t-esc3"],
            &["export", "t-esc3", "-o", archive],
            &["delete", "t-esc3"],
            &["import", archive],
            &image,
            &["snapshot", "create", "t-esc4", "one"],
        ];
        // Under a strict umask, only the first verbs: the others copy the modes of files that it locked out.
        let verbs = match umask {
            "000" => &verbs[..],
            _ => &verbs[..2],
        };
        let mut found = Vec::new();
        for words in verbs {
            with_umask(umask, &service, words);
            for place in [CONFIGS, STATES, RUNTIME, TREES, "/etc/systemd/system"] {
                open_to_others(Path::new(place), &mut found);
            }
            assert!(found.is_empty(), "umask {umask}: {words:?}: {found:?}");
        }
        open_to_others(dir.path(), &mut found);
        assert!(found.is_empty(), "umask {umask}: {found:?}");
        let _ = fs::remove_file(archive);
        // Users inside must still have access.
        with_umask(umask, &service, &["start", "t-esc"]);
        let read = says("t-esc", "setpriv --reuid=65534 cat /etc/hostname && umask");
        assert_eq!(read.lines().last(), Some("0022"), "umask {umask}");
        for name in ["t-esc", "t-esc3", "t-esc4"] {
            if Path::new(CONFIGS).join("services").join(name).exists() {
                with_umask(umask, &service, &["delete", "--force", name]);
            }
        }
        while_it_runs(umask, &command, || {
            open_to_others(Path::new(RUNTIME), &mut found)
        });
        assert!(found.is_empty(), "umask {umask}: {found:?}");
    }
    drop(unit);
    test.end();
}
