//! Commands of the host on a sandbox whose configuration names another sandbox, or a directory that is not its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Done, HostFile, Test, ok, output};
use crate::{MARKER, races};

const CONFIGS: &str = "/etc/libvirt-sandbox/services";
const OTHERS: &str = "/var/lib/t-esc-others";

fn config(name: &str) -> PathBuf {
    Path::new(CONFIGS).join(name).join("sandbox.toml")
}

/// Lists a sandbox's configuration files and its domain, and the content of the file that belongs to others.
fn state(name: &str) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(Path::new(CONFIGS).join(name))
        .unwrap()
        .map(|entry| format!("{:?}", entry.unwrap().file_name()))
        .filter(|name| !name.contains("lock"))
        .collect();
    files.sort();
    let domains = output("virsh", &["list", "--all", "--name"]);
    files.extend(
        domains
            .lines()
            .filter(|line| *line == name)
            .map(str::to_owned),
    );
    files.push(fs::read_to_string(format!("{OTHERS}/file")).unwrap());
    files
}

fn refused(words: &[&str], because: &str) -> Done {
    let done = races::ends(words);
    assert_ne!(done.code, 0, "{words:?}: {done:?}");
    assert!(done.stderr.contains(because), "{words:?}: {done:?}");
    done
}

/// Returns every verb that changes a sandbox or its tree.
fn verbs(archive: &str) -> Vec<Vec<&str>> {
    let verbs: [&[&str]; 9] = [
        &["start", "t-esc"],
        &["export", "t-esc", "-o", archive],
        &["clone", "t-esc", "t-esc3"],
        &["rename", "t-esc", "t-esc3"],
        &["upgrade", "t-esc"],
        &["upgrade", "--dry-run", "t-esc"],
        &["snapshot", "create", "t-esc", "one"],
        &["delete", "t-esc"],
        &["delete", "--force", "t-esc"],
    ];
    verbs.map(<[&str]>::to_vec).to_vec()
}

#[test]
fn verbs_refuse_the_files_of_another_sandbox() {
    let Some(test) = Test::begin("verbs_refuse_the_files_of_another_sandbox") else {
        return;
    };
    // In capitals, since commands print the marker itself.
    let others = HostFile::new(&format!("{OTHERS}/file"), &MARKER.to_uppercase());
    for name in ["t-esc", "t-esc2"] {
        ok(&["create", "-N", "none", name, "--", "sleep", "1000"]);
    }
    ok(&["start", "t-esc2"]);
    let good = fs::read_to_string(config("t-esc")).unwrap();
    let line = |key: &str| {
        let lines = good.lines();
        lines
            .map(str::to_owned)
            .find(|line| line.starts_with(&format!("{key} = ")))
            .unwrap()
    };
    let other = fs::read_to_string(config("t-esc2")).unwrap();
    let other_uuid = other
        .lines()
        .find(|line| line.starts_with("uuid = "))
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("t.tar");
    let archive = archive.to_str().unwrap();
    for (key, bad, because) in [
        ("name", "name = \"t-esc2\"", "'name' is 't-esc2'"),
        (
            "path",
            &format!("path = \"{OTHERS}\""),
            "mark of this sandbox",
        ),
        ("path", "path = \"/etc\"", "mark of this sandbox"),
        ("uuid", other_uuid, "mark of this sandbox"),
    ] {
        fs::write(config("t-esc"), good.replace(&line(key), bad)).unwrap();
        let before = state("t-esc");
        for verb in verbs(archive) {
            // A tree outside an image has no snapshots, whichever sandbox owns it.
            refused(&verb, because);
            assert_eq!(state("t-esc"), before, "{bad}: {verb:?}");
            assert!(!Path::new(archive).exists(), "{bad}: {verb:?}");
        }
        if key == "name" {
            for verb in ["stop", "status", "execute", "inspect"] {
                let words = [verb, "t-esc", "--", "true"];
                let words = if verb == "execute" {
                    &words[..]
                } else {
                    &words[..2]
                };
                refused(words, because);
            }
        }
        let listed = ok(&["list"]);
        assert!(
            listed
                .lines()
                .any(|line| line.starts_with("t-esc2 ") && line.contains("running")),
            "{bad}: {listed}"
        );
    }
    // A running sandbox keeps running when its delete is refused.
    fs::write(config("t-esc"), &good).unwrap();
    ok(&["start", "t-esc"]);
    fs::write(
        config("t-esc"),
        good.replace(&line("path"), "path = \"/etc\""),
    )
    .unwrap();
    refused(&["delete", "--force", "t-esc"], "mark of this sandbox");
    assert!(output("virsh", &["domstate", "t-esc"]).contains("running"));
    fs::write(config("t-esc"), &good).unwrap();
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", "--force", name]);
    }
    drop(others);
    test.end();
}

#[test]
fn an_endless_configuration_does_not_block_list() {
    let Some(test) = Test::begin("an_endless_configuration_does_not_block_list") else {
        return;
    };
    for name in ["t-esc", "t-esc2"] {
        ok(&["create", "-N", "none", name, "--", "sleep", "1000"]);
    }
    let path = config("t-esc");
    let good = fs::read_to_string(&path).unwrap();
    for special in ["fifo", "zero", "long"] {
        fs::remove_file(&path).unwrap();
        match special {
            "fifo" => {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            }
            "zero" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            _ => fs::write(&path, vec![b'#'; 10 << 20]).unwrap(),
        }
        let listed = races::ends(&["list"]);
        assert!(
            listed.code == 0 && listed.stdout.contains("t-esc2"),
            "{special}: {listed:?}"
        );
        let shown = refused(&["inspect", "t-esc"], "reading");
        assert!(shown.stderr.len() < 1000, "{special}: {shown:?}");
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, good).unwrap();
    for name in ["t-esc", "t-esc2"] {
        ok(&["delete", name]);
    }
    test.end();
}
