//! Upgrades that fail, are killed, or meet a sandbox that means harm.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::packages::{Content, Package, served};
use crate::support::{HostFile, Test, eventually, in_tree, listed, ok, output, program, run};
use crate::upgrade::{assert_answer, assert_same, assert_says, read, state};

const NEW: &str = ".virt-sandbox-new";

#[test]
fn what_does_not_come_up_is_as_it_was() {
    let Some(test) = Test::begin("what_does_not_come_up_is_as_it_was") else {
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

    // What the admin has edited in the configuration takes effect, and what is wrong there changes nothing.
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

#[test]
fn an_upgrade_killed_at_any_moment_is_all_or_nothing() {
    let Some(test) = Test::begin("an_upgrade_killed_at_any_moment_is_all_or_nothing") else {
        return;
    };
    let conffiles = |text: &str| -> Vec<(String, String)> {
        let all = 0..200;
        all.map(|n| (format!("part{n}"), text.to_owned())).collect()
    };
    let content = |text: &str| {
        let files = conffiles(text);
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (&**a, &**b)).collect();
        Content {
            files: served("t-kill", "1.0", "", &files),
            ..Content::default()
        }
    };
    let package = Package::new("t-kill", &content("old"));
    ok(&["create", "-N", "none", "-u", "t-kill.service", "t-kill"]);
    package.install("2.0", &content("new"));
    let old = state("t-kill");
    let journal = Path::new("/etc/libvirt-sandbox/services/t-kill/upgrade/journal.json");
    // From the moment on that all is ready and the first step comes: before that there is nothing to undo.
    let begins = || fs::read_to_string(journal).is_ok_and(|text| text.contains("\"path\""));
    let mut killed = 0;
    for step in 0..8 {
        let child = program()
            .args(["upgrade", "t-kill"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let child = RefCell::new(child);
        eventually("the upgrade begins", || {
            let ended = child.borrow_mut().try_wait();
            begins() || ended.is_ok_and(|ended| ended.is_some())
        });
        let mut child = child.into_inner();
        std::thread::sleep(Duration::from_millis(step * step * 3));
        let _ = child.kill();
        let ended = child.wait().unwrap();
        let next = run(&["list"]);
        assert_eq!(next.code, 0, "{next:?}");
        assert!(!journal.exists() && !in_tree("t-kill", ".upgrade").exists());
        if ended.success() {
            break;
        }
        killed += 1;
        let now = state("t-kill");
        if now.contains("\"t-kill\": \"2.0\"") {
            break;
        }
        assert_same(&old, &now);
    }
    eprintln!("killed {killed} times");
    ok(&["upgrade", "t-kill"]);
    for n in 0..200 {
        let part = in_tree("t-kill", &format!("etc/t-kill/part{n}"));
        assert_eq!(read(part), "new\n");
    }
    assert!(ok(&["upgrade", "t-kill"]).contains("up to date"));
    ok(&["delete", "t-kill"]);
    drop(package);
    test.end();
}

#[test]
fn nothing_in_a_sandbox_leads_out_of_it() {
    let Some(test) = Test::begin("nothing_in_a_sandbox_leads_out_of_it") else {
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
    // Links to files and directories of the host, by name and by the way up.
    fs::remove_file(etc("t-evil/link")).unwrap();
    symlink("/srv/t-victim/inner", etc("t-evil/link")).unwrap();
    fs::remove_dir_all(etc("t-evil/d")).unwrap();
    symlink("../../../../../../../../srv/t-victim", etc("t-evil/d")).unwrap();
    fs::remove_file(etc("t-evil/fifo")).unwrap();
    output("mkfifo", &[etc("t-evil/fifo").to_str().unwrap()]);
    symlink("/srv/t-victim/inner", etc(&format!("t-evil/conf{NEW}"))).unwrap();
    fs::write(etc("t-evil/conf"), "mine\n").unwrap();
    // And the files of accounts.
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
    // A whole directory of configuration that leads away.
    fs::remove_file(etc("passwd")).unwrap();
    fs::write(etc("passwd"), passwd).unwrap();
    fs::remove_dir_all(etc("t-evil")).unwrap();
    symlink("/srv/t-victim", etc("t-evil")).unwrap();
    package.install("3.0", &content("newer"));
    let done = run(&["upgrade", "t-evil"]);
    eprintln!("{done:?}");
    assert_eq!(read("/srv/t-victim/inner"), "host\n");
    assert_eq!(fs::read_dir("/srv/t-victim").unwrap().count(), 1);
    // The way to the configuration itself.
    fs::rename(in_tree("t-evil", "etc"), in_tree("t-evil", "etc-moved")).unwrap();
    symlink("/srv/t-victim", in_tree("t-evil", "etc")).unwrap();
    package.install("4.0", &content("newest"));
    let done = run(&["upgrade", "t-evil"]);
    assert_says(&done, &["kept", "/etc/t-evil"]);
    assert_eq!(fs::read_dir("/srv/t-victim").unwrap().count(), 1);
    assert_eq!(listed("t-evil").unwrap()["state"], "stopped");
    ok(&["delete", "t-evil"]);
    drop((package, victim));
    test.end();
}
