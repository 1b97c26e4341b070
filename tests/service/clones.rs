//! Clones of stopped and running sandboxes, and interrupted clones.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::support::{
    HostFile, Test, address, eventually, get, in_tree, inside, listed, ok, output, program, run,
    says, send,
};
use crate::trees::{UNIT, described, furnish};

#[test]
fn a_clone_has_everything_but_the_identity() {
    let Some(test) = Test::begin("a_clone_has_everything_but_the_identity") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    ok(&["create", "-u", "t-state.service", "t-one"]);
    ok(&["start", "t-one"]);
    ok(&["stop", "t-one"]);
    let state = |name: &str| in_tree(name, "var/lib/t-state");
    furnish(&state("t-one"));
    // Files as of a service with its own keys.
    let config = Path::new("/etc/libvirt-sandbox/services/t-one/sandbox.toml");
    let text = fs::read_to_string(config).unwrap();
    let with_package = text.replace(
        "path = ",
        "service-packages = [\"openssh-server\"]\npath = ",
    );
    fs::write(config, with_package).unwrap();
    let ssh = in_tree("t-one", "etc/ssh");
    fs::create_dir_all(&ssh).unwrap();
    for file in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "moduli"] {
        fs::write(ssh.join(file), "x").unwrap();
    }
    fs::write(in_tree("t-one", "var/lib/systemd/random-seed"), "seed").unwrap();

    ok(&["clone", "t-one", "t-two"]);
    assert_eq!(described(&state("t-one")), described(&state("t-two")));
    let ssh = in_tree("t-two", "etc/ssh");
    assert!(ssh.join("moduli").exists() && !ssh.join("ssh_host_rsa_key").exists());
    assert!(!ssh.join("ssh_host_rsa_key.pub").exists());
    let read = |name: &str, path: &str| fs::read_to_string(in_tree(name, path)).unwrap();
    let ids = ["t-one", "t-two"].map(|name| read(name, "etc/machine-id").trim().to_owned());
    assert_ne!(ids[0], ids[1]);
    assert_eq!(read("t-two", "etc/hostname"), "t-two\n");
    assert!(read("t-two", "etc/hosts").contains("127.0.1.1\tt-two\n"));
    let journals = fs::read_dir(in_tree("t-two", "var/log/journal")).unwrap();
    let journals: Vec<_> = journals.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(journals, [ids[1].as_str()]);
    for file in [
        "var/lib/systemd/random-seed",
        "var/lib/virt-sandbox/leases.json",
    ] {
        assert!(in_tree("t-one", file).exists(), "{file}");
        assert!(!in_tree("t-two", file).exists(), "{file}");
    }
    let mac = |name: &str| {
        let text = ok(&["inspect", name]);
        text.split("mac=").nth(1).unwrap()[..17].to_owned()
    };
    assert_ne!(mac("t-one"), mac("t-two"));

    // A clone in another directory with another host name, and a clone of a clone.
    ok(&[
        "clone",
        "--path",
        "/var/lib/t-base",
        "--hostname",
        "www.lan",
        "t-two",
        "t-three",
    ]);
    let hostname = fs::read_to_string("/var/lib/t-base/t-three/etc/hostname").unwrap();
    assert_eq!(hostname, "www.lan\n");
    for wrong in [
        ["t-none", "t-x"],
        ["t-one", "t-two"],
        ["t-one", "t-one"],
        ["t-one", "../x"],
    ] {
        let done = run(&[&["clone"], &wrong[..]].concat());
        assert_ne!(done.code, 0, "{wrong:?}: {done:?}");
    }
    let done = run(&["delete", "--path", "/var/lib", "t-three"]);
    assert!(
        done.code != 0 && done.stderr.contains("/var/lib/t-base/t-three"),
        "{done:?}"
    );
    for name in ["t-one", "t-two"] {
        ok(&["delete", name]);
    }
    ok(&["delete", "-p", "/var/lib/t-base", "t-three"]);
    assert!(!Path::new("/var/lib/t-base").exists());
    drop(unit);
    test.end();
}

#[test]
fn a_running_server_and_its_clone_both_answer() {
    let Some(test) = Test::begin("a_running_server_and_its_clone_both_answer") else {
        return;
    };
    ok(&["create", "--start", "-u", "apache2.service", "t-one"]);
    says("t-one", "echo same > /var/www/html/page");
    let pid = || says("t-one", "systemctl show -P MainPID apache2.service");
    let before = pid();
    ok(&["clone", "--start", "t-one", "t-two"]);
    assert_eq!(listed("t-one").unwrap()["state"], "running");
    assert_eq!(pid(), before, "the source was only frozen");
    assert_ne!(address("t-one"), address("t-two"));
    for name in ["t-one", "t-two"] {
        assert_eq!(
            get(&format!("http://{}/page", address(name))).stdout,
            "same\n"
        );
        assert_eq!(says(name, "hostname"), name);
        ok(&["delete", "--force", name]);
    }
    test.end();
}

/// A unit that counts in two files, always in the first one first.
const COUNTER: &str = "[Service]\nStateDirectory=t-count\nWorkingDirectory=/var/lib/t-count\n\
    ExecStart=/usr/bin/python3 -c \"\
    f = [open(n, 'r+' if __import__('os').path.exists(n) else 'w+') for n in ('0-first', 'z-last')]\\n\
    i = 0\\n\
    while True:\\n\
    \x20i += 1\\n\
    \x20for o in f:\\n\
    \x20 o.seek(0); o.write('%%012d' %% i); o.flush()\"\n";

fn counting() -> HostFile {
    let unit = HostFile::unit("t-count.service", COUNTER);
    ok(&[
        "create",
        "--start",
        "-N",
        "none",
        "-u",
        "t-count.service",
        "t-one",
    ]);
    // Enough files between the two to make the copy slow.
    let dir = in_tree("t-one", "var/lib/t-count");
    for file in 0..8000 {
        fs::write(dir.join(format!("file-{file}")), "x").unwrap();
    }
    unit
}

fn count(name: &str, file: &str) -> u64 {
    let text = fs::read_to_string(in_tree(name, "var/lib/t-count").join(file)).unwrap();
    text.trim().parse().unwrap()
}

fn is_counting() -> bool {
    let before = count("t-one", "z-last");
    std::thread::sleep(std::time::Duration::from_millis(200));
    count("t-one", "z-last") > before
}

fn half_cloned() -> Child {
    let child = program()
        .args(["clone", "t-one", "t-cut"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let copied = in_tree("t-cut", "var/lib/t-count");
    eventually("the copying begins", || {
        fs::read_dir(&copied).is_ok_and(|entries| entries.count() > 10)
    });
    child
}

#[test]
#[ignore = "slow: make test-slow"]
fn a_running_source_is_frozen_and_resumes() {
    let Some(test) = Test::begin("a_running_source_is_frozen_and_resumes") else {
        return;
    };
    let unit = counting();
    ok(&["clone", "t-one", "t-two"]);
    let (first, last) = (count("t-two", "0-first"), count("t-two", "z-last"));
    assert!(
        first - last <= 1,
        "{first} and {last} are not of one moment"
    );
    assert!(is_counting());
    ok(&["delete", "t-two"]);

    let child = half_cloned();
    send(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("interrupted"),
        "{said}"
    );
    assert!(!in_tree("t-cut", "").exists());
    assert!(is_counting());

    let mut child = half_cloned();
    send(&child, Signal::SIGKILL);
    child.wait().unwrap();
    assert!(!is_counting(), "it was through already");
    let done = run(&["list"]);
    assert!(
        done.stderr.contains("'t-one'") && done.stderr.contains("'t-cut'"),
        "{done:?}"
    );
    assert!(!in_tree("t-cut", "").exists());
    assert!(is_counting());
    assert_eq!(inside("t-one", "true").code, 0);
    assert!(!Path::new("/etc/libvirt-sandbox/services/t-one/frozen").exists());
    ok(&["delete", "--force", "t-one"]);
    drop(unit);
    test.end();
}

#[test]
fn a_clone_without_space_leaves_nothing() {
    let Some(test) = Test::begin("a_clone_without_space_leaves_nothing") else {
        return;
    };
    let unit = HostFile::unit("t-state.service", UNIT);
    ok(&["create", "-N", "none", "-u", "t-state.service", "t-one"]);
    fs::write(in_tree("t-one", "var/lib/big"), vec![7; 20 << 20]).unwrap();
    let base = Path::new("/var/lib/t-base");
    fs::create_dir(base).unwrap();
    output(
        "mount",
        &["-t", "tmpfs", "-o", "size=10M", "t-base", "/var/lib/t-base"],
    );
    let done = run(&["clone", "--path", "/var/lib/t-base", "t-one", "t-two"]);
    let left = fs::read_dir(base).unwrap().count();
    output("umount", &["/var/lib/t-base"]);
    fs::remove_dir(base).unwrap();
    assert_eq!((done.code, left), (1, 0), "{done:?}");
    assert!(done.stderr.contains("no space"), "{done:?}");
    ok(&["delete", "t-one"]);
    drop(unit);
    test.end();
}
