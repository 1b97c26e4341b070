//! Upgrades that fail, are killed, or meet a hostile sandbox.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::packages::{Content, Package, served};
use crate::support::{HostFile, Test, eventually, in_tree, listed, ok, output, program, run, says};
use crate::upgrade::{assert_answer, assert_same, assert_says, read, state, state_in};

const NEW: &str = ".virt-sandbox-new";

#[test]
fn a_failed_upgrade_is_rolled_back() {
    let Some(test) = Test::begin("a_failed_upgrade_is_rolled_back") else {
        return;
    };
    let content = |text: &str| Content {
        files: served("t-roll", "1.0", "", &[("conf", text), ("more", text)]),
        ..Content::default()
    };
    let package = Package::new("t-roll", &content("fine"));
    ok(&["create", "--start", "-u", "t-roll.service", "t-roll"]);
    fs::write(in_tree("t-roll", "etc/t-roll/more"), "mine\n").unwrap();
    let before = state("t-roll");
    package.install("2.0", &content("broken"));
    let done = run(&["upgrade", "--restart", "t-roll"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert_says(
        &done,
        &["broken: /etc/t-roll/conf", "was undone", "as before"],
    );
    assert_same(&before, &state("t-roll"));
    assert_answer("t-roll", &["conf fine"], &[]);
    assert!(!in_tree("t-roll", ".upgrade").exists());

    // Edits of the configuration take effect, and a wrong edit changes nothing.
    package.install("3.0", &content("fine"));
    let config = "/etc/libvirt-sandbox/services/t-roll/sandbox.toml";
    let good = read(config);
    fs::write(config, good.replace("timeout = ", "timeout = -")).unwrap();
    let before = state("t-roll");
    let done = run(&["upgrade", "t-roll"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_says(&done, &[config, "timeout"]);
    assert_same(&before, &state("t-roll"));
    fs::write(
        config,
        good.replace("[resources]", "[resources]\nmemory = \"300M\""),
    )
    .unwrap();
    let done = run(&["upgrade", "--restart", "t-roll"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_says(&done, &["restarted"]);
    let document = output(
        "virsh",
        &[
            "-c",
            &std::env::var("LIBVIRT_DEFAULT_URI").unwrap(),
            "dumpxml",
            "t-roll",
        ],
    );
    assert!(
        document.contains("<memory unit='KiB'>307200</memory>"),
        "{document}"
    );
    assert_answer("t-roll", &["more mine"], &[]);
    ok(&["delete", "--force", "t-roll"]);
    drop(package);
    test.end();
}

/// A sandbox whose upgrades are killed: the path of its tree, and its options.
struct Place {
    format: Option<&'static str>,
    create: &'static [&'static str],
}

const DIRECTORY: Place = Place {
    format: None,
    create: &[],
};
const RAW: Place = Place {
    format: Some("raw"),
    create: &["-i", "64M"],
};
const QCOW2: Place = Place {
    format: Some("qcow2"),
    create: &["-i", "64M", "--format", "qcow2"],
};

impl Place {
    /// Calls `at` with the tree of a stopped sandbox.
    fn look<T>(&self, name: &str, at: impl FnOnce(&Path) -> T) -> T {
        let Some(format) = self.format else {
            return at(&in_tree(name, ""));
        };
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        let image = in_tree(&format!("{name}.{format}"), "");
        let image = image.to_str().unwrap().trim_end_matches('/');
        let (copy, tree) = (copy.to_str().unwrap(), dir.path().join("tree"));
        output(
            "qemu-img",
            &["convert", "-f", format, "-O", "raw", image, copy],
        );
        fs::create_dir(&tree).unwrap();
        let place = tree.to_str().unwrap();
        output("mount", &["-o", "loop", copy, place]);
        let seen = at(&tree);
        output("umount", &[place]);
        seen
    }

    fn state(&self, name: &str) -> String {
        self.look(name, |tree| {
            assert!(!tree.join(".upgrade").exists());
            state_in(name, tree)
        })
    }
}

/// Returns a package with 200 conffiles that all contain this text.
fn many_files(text: &str) -> Content<'_> {
    let files: Vec<String> = (0..200).map(|n| format!("part{n}")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|name| (&**name, text)).collect();
    Content {
        files: served("t-kill", "1.0", "", &files),
        ..Content::default()
    }
}

const JOURNAL: &str = "/etc/libvirt-sandbox/services/t-kill/journal.json";

/// Upgrades `t-kill` and kills the command some time after its journal has `words`. Returns `true` if it ended before.
fn killed_after(words: &str, wait: Duration, arguments: &[&str]) -> bool {
    let child = program()
        .args(["upgrade", "t-kill"])
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = RefCell::new(child);
    eventually("the upgrade begins", || {
        let ended = child.borrow_mut().try_wait();
        let begins = || fs::read_to_string(JOURNAL).is_ok_and(|text| text.contains(words));
        begins() || ended.is_ok_and(|ended| ended.is_some())
    });
    let mut child = child.into_inner();
    std::thread::sleep(wait);
    let _ = child.kill();
    child.wait().unwrap().success()
}

fn killed_at_any_moment(place: &Place, name: &str) {
    let Some(test) = Test::begin(name) else {
        return;
    };
    let package = Package::new("t-kill", &many_files("old"));
    let create = ["create", "-N", "none", "-u", "t-kill.service", "t-kill"];
    ok(&[&create, place.create].concat());
    package.install("2.0", &many_files("new"));
    let old = place.state("t-kill");
    let mut killed = 0;
    for step in 0..5 {
        // From the first step on: before that there is nothing to undo.
        let wait = Duration::from_millis(step * step * 8);
        let has_ended = killed_after("\"path\"", wait, &[]);
        let next = run(&["list"]);
        assert_eq!(next.code, 0, "{next:?}");
        assert!(!Path::new(JOURNAL).exists());
        assert!(!in_tree("t-kill", ".upgrade").exists());
        if has_ended {
            break;
        }
        killed += 1;
        let now = place.state("t-kill");
        if now.contains("\"t-kill\": \"2.0\"") {
            break;
        }
        assert_same(&old, &now);
    }
    eprintln!("killed {killed} times");
    ok(&["upgrade", "t-kill"]);
    place.look("t-kill", |tree| {
        for n in 0..200 {
            assert_eq!(read(tree.join(format!("etc/t-kill/part{n}"))), "new\n");
        }
    });
    assert_eq!(ok(&["upgrade", "t-kill"]), "t-kill: up to date\n");
    ok(&["delete", "t-kill"]);
    drop(package);
    test.end();
}

#[test]
#[ignore = "slow: make test-slow"]
fn an_upgrade_killed_at_any_moment_is_all_or_nothing() {
    killed_at_any_moment(&DIRECTORY, "an_upgrade_killed_at_any_moment");
}

#[test]
#[ignore = "slow: make test-slow"]
fn an_upgrade_in_an_image_killed_at_any_moment_is_all_or_nothing() {
    killed_at_any_moment(&RAW, "an_upgrade_in_an_image_killed_at_any_moment");
}

#[test]
#[ignore = "slow: make test-slow"]
fn an_upgrade_in_a_qcow2_image_killed_at_any_moment_is_all_or_nothing() {
    killed_at_any_moment(&QCOW2, "an_upgrade_in_a_qcow2_image_killed_at_any_moment");
}

#[test]
#[ignore = "slow: make test-slow"]
fn an_upgrade_killed_during_the_restart_leaves_the_sandbox_running() {
    let Some(test) = Test::begin("an_upgrade_killed_during_the_restart_leaves_the_sandbox_running")
    else {
        return;
    };
    let package = Package::new("t-kill", &many_files("old"));
    for place in [&DIRECTORY, &RAW] {
        package.install("1.0", &many_files("old"));
        let create = [
            "create",
            "--start",
            "-N",
            "none",
            "-u",
            "t-kill.service",
            "t-kill",
        ];
        ok(&[&create, place.create].concat());
        package.install("2.0", &many_files("new"));
        for wait in [0, 150, 400] {
            let has_ended = killed_after(
                "\"restarting\":true",
                Duration::from_millis(wait),
                &["--restart"],
            );
            assert!(!has_ended, "it was too quick to be killed");
            assert_eq!(run(&["list"]).code, 0);
            assert!(!Path::new(JOURNAL).exists());
            eventually("it runs again", || {
                let text = run(&["execute", "t-kill", "--", "cat", "/etc/t-kill/part7"]);
                text.stdout == "old\n"
            });
        }
        // Upgrades with --all, for each kind of tree.
        ok(&["upgrade", "--all", "--restart"]);
        assert_eq!(says("t-kill", "cat /etc/t-kill/part7"), "new");
        ok(&["delete", "--force", "t-kill"]);
    }
    drop(package);
    test.end();
}

#[test]
fn upgrades_follow_no_link_out_of_a_sandbox() {
    let Some(test) = Test::begin("upgrades_follow_no_link_out_of_a_sandbox") else {
        return;
    };
    let content = |text: &str| Content {
        files: served(
            "t-evil",
            "1.0",
            "",
            &[
                ("conf", text),
                ("link", text),
                ("d/inner", text),
                ("fifo", text),
            ],
        ),
        ..Content::default()
    };
    let package = Package::new("t-evil", &content("old"));
    let victim = HostFile::new("/srv/t-victim/inner", "host\n");
    ok(&["create", "-N", "none", "-u", "t-evil.service", "t-evil"]);
    package.install("2.0", &content("new"));
    let etc = |path: &str| in_tree("t-evil", &format!("etc/{path}"));
    // Links to files and directories of the host, absolute and by `..`.
    fs::remove_file(etc("t-evil/link")).unwrap();
    symlink("/srv/t-victim/inner", etc("t-evil/link")).unwrap();
    fs::remove_dir_all(etc("t-evil/d")).unwrap();
    symlink("../../../../../../../../srv/t-victim", etc("t-evil/d")).unwrap();
    fs::remove_file(etc("t-evil/fifo")).unwrap();
    output("mkfifo", &[etc("t-evil/fifo").to_str().unwrap()]);
    symlink("/srv/t-victim/inner", etc(&format!("t-evil/conf{NEW}"))).unwrap();
    fs::write(etc("t-evil/conf"), "mine\n").unwrap();
    // The account files.
    let passwd = read(etc("passwd"));
    fs::remove_file(etc("passwd")).unwrap();
    symlink("/srv/t-victim/inner", etc("passwd")).unwrap();
    fs::remove_file(etc("shadow")).unwrap();
    output("mkfifo", &[etc("shadow").to_str().unwrap()]);
    let done = run(&["upgrade", "t-evil"]);
    eprintln!("{done:?}");
    assert_eq!(read("/srv/t-victim/inner"), "host\n");
    assert_eq!(fs::read_dir("/srv/t-victim").unwrap().count(), 1);
    assert_eq!(read(etc("t-evil/conf")), "mine\n");
    // A link in place of a whole directory of configuration.
    fs::remove_file(etc("passwd")).unwrap();
    fs::write(etc("passwd"), passwd).unwrap();
    fs::remove_dir_all(etc("t-evil")).unwrap();
    symlink("/srv/t-victim", etc("t-evil")).unwrap();
    package.install("3.0", &content("newer"));
    let done = run(&["upgrade", "t-evil"]);
    eprintln!("{done:?}");
    assert_eq!(read("/srv/t-victim/inner"), "host\n");
    assert_eq!(fs::read_dir("/srv/t-victim").unwrap().count(), 1);
    // A link in place of a parent of the configuration.
    fs::rename(in_tree("t-evil", "etc"), in_tree("t-evil", "etc-moved")).unwrap();
    symlink("/srv/t-victim", in_tree("t-evil", "etc")).unwrap();
    package.install("4.0", &content("newest"));
    let done = run(&["upgrade", "t-evil"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_says(&done, &["t-evil/etc' is not a directory"]);
    assert_eq!(fs::read_dir("/srv/t-victim").unwrap().count(), 1);
    assert_eq!(listed("t-evil").unwrap()["state"], "stopped");
    ok(&["delete", "t-evil"]);
    drop((package, victim));
    test.end();
}
