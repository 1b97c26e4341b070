//! Mistakes: each is reported on one line and leaves nothing behind.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::{Done, HostFile, Test, finish, ok, program, run};

/// Checks that a failure is reported on one line; errors of the command line also say where to find help.
fn check(done: &Done, code: i32, words: &[&str]) {
    assert_eq!(done.code, code, "{done:?}");
    assert_eq!(done.stdout, "", "{done:?}");
    let lines: Vec<&str> = done
        .stderr
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    let expected = if code == 2 { 2 } else { 1 };
    assert_eq!(lines.len(), expected, "{done:?}");
    assert!(lines[0].contains("error: "), "{done:?}");
    for word in words {
        assert!(lines[0].contains(word), "'{word}' is not in {done:?}");
    }
}

#[test]
fn a_failed_create_says_why_and_leaves_nothing() {
    let Some(test) = Test::begin("a_failed_create_says_why_and_leaves_nothing") else {
        return;
    };
    let long = "a".repeat(300);
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &[
                "-u",
                "apache2.service",
                "-m",
                "ram:/x=1M",
                "ram:/y=1M",
                "--",
                "t-x",
            ],
            2,
            &["'ram:/y=1M'", "--mount before each"],
        ),
        (
            &["-u", "apache.service", "t-x"],
            4,
            &["'apache.service'", "'apache2.service'"],
        ),
        (
            &["-u", "httpd.service", "t-x"],
            4,
            &["apache2 provides 'httpd'", "'apache2.service'"],
        ),
        (
            &["-u", "apt-daily.service", "t-x"],
            1,
            &["packages of the host", "'/var/lib/apt'"],
        ),
        (
            &["-u", "apache2.service", "--cpu-pinning", "4000", "t-x"],
            1,
            &["'cpu-pinning'", "CPU 4000", "it has 0"],
        ),
        (
            &["-u", "apache2.service", "--numa-nodes", "77", "t-x"],
            1,
            &["'numa-nodes'", "NUMA node 77", "it has 0"],
        ),
        (
            &["-u", "apache2.service", "--memory", "900T", "t-x"],
            1,
            &["'memory' is 900T"],
        ),
        (
            &["-u", "apache2.service", "--io-read", "/dev/null=1M", "t-x"],
            1,
            &["'/dev/null'", "no block device"],
        ),
        (
            &[
                "-u",
                "apache2.service",
                "-N",
                "none",
                "--net-send",
                "1M",
                "t-x",
            ],
            1,
            &["'net-send'", "-N"],
        ),
        (
            &["-u", "apache2.service", "-N", "dhcp,bridge=nobr", "t-x"],
            4,
            &["bridge 'nobr'"],
        ),
        (
            &["-u", "apache2.service", "-N", "dhcp,filter=nofilter", "t-x"],
            4,
            &["'nofilter'", "clean-traffic"],
        ),
        (&["-u", "apache2.service", "../x"], 2, &["'../x'", "'/'"]),
        (&["-u", "apache2.service", &long], 2, &["300", "at most"]),
        (&["-u", "apache2.service", "a b"], 2, &["'a b'"]),
        (&["-u", "apache2.service", ""], 2, &["name"]),
        (&["-u", "../../x.service", "t-x"], 1, &["../../x.service"]),
        (
            &["-u", "apache2.service", "-P", "no-such-package", "t-x"],
            4,
            &["'no-such-package'"],
        ),
        (
            &["-u", "apache2.service", "-N", "dhcp,source=nonet", "t-x"],
            4,
            &["'nonet'", "default"],
        ),
        (
            &["-u", "apache2.service", "-N", "garbage", "t-x"],
            2,
            &["'garbage'"],
        ),
        (
            &["-u", "apache2.service", "-N", "none", "-N", "dhcp", "t-x"],
            1,
            &["none"],
        ),
        (
            &[
                "-u",
                "apache2.service",
                "-m",
                "host-bind:/srv/x=/nonexistent",
                "t-x",
            ],
            1,
            &["'/nonexistent'"],
        ),
        (
            &[
                "-c",
                "lxc:///system?socket=/nonexistent",
                "-u",
                "apache2.service",
                "t-x",
            ],
            1,
            &["'/nonexistent'", "libvirtd"],
        ),
        (
            &["-u", "apache2.service", "--kernver", "6.1", "t-x"],
            1,
            &["kernel of the host", "--kernver", "qemu:///system"],
        ),
        (
            &["-c", "qemu:///session", "-u", "apache2.service", "t-x"],
            1,
            &["qemu:///session", "qemu:///system"],
        ),
    ];
    for (arguments, code, words) in cases {
        eprintln!("create {arguments:?}");
        check(&run(&[&["create"], *arguments].concat()), *code, words);
        test.assert_clean();
    }
    test.end();
}

#[test]
fn an_unknown_sandbox_is_named_by_every_verb() {
    let Some(test) = Test::begin("an_unknown_sandbox_is_named_by_every_verb") else {
        return;
    };
    for verb in [
        "start", "stop", "restart", "reload", "delete", "status", "inspect", "logs", "run",
        "repair",
    ] {
        eprintln!("{verb}");
        check(
            &run(&[verb, "t-none"]),
            4,
            &["there is no sandbox 't-none'"],
        );
    }
    check(&run(&["delete", "--force", "t-none"]), 4, &["'t-none'"]);
    check(&run(&["connect", "t-none"]), 125, &["'t-none'"]);
    check(&run(&["execute", "t-none", "--", "ls"]), 125, &["'t-none'"]);
    test.end();
}

#[test]
fn existing_sandboxes_and_files_are_not_overwritten() {
    let Some(test) = Test::begin("existing_sandboxes_and_files_are_not_overwritten") else {
        return;
    };
    let sleeper = HostFile::unit(
        "t-sleep.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    );
    let create = ["create", "-N", "none", "-u", "t-sleep.service", "t-one"];
    ok(&create);
    check(&run(&create), 5, &["'t-one' already", "delete t-one"]);
    for verb in ["reload", "connect"] {
        let done = run(&[verb, "t-one"]);
        check(
            &done,
            if verb == "connect" { 125 } else { 7 },
            &["does not run", "start t-one"],
        );
    }
    ok(&["start", "t-one"]);
    check(&run(&["start", "t-one"]), 6, &["running already"]);
    check(&run(&["delete", "t-one"]), 6, &["is running", "stop t-one"]);
    check(&run(&["reload", "t-one"]), 1, &["t-sleep.service"]);
    ok(&["delete", "--force", "t-one"]);

    let base = tempfile::Builder::new().prefix("t-").tempdir().unwrap();
    let path = base.path().to_str().unwrap();
    let file = HostFile::new(&format!("{path}/t-two/mine"), "mine");
    let done = run(&[
        "create",
        "-p",
        path,
        "-N",
        "none",
        "-u",
        "t-sleep.service",
        "t-two",
    ]);
    check(&done, 5, &["t-two", "empty"]);
    assert_eq!(
        std::fs::read_to_string(base.path().join("t-two/mine")).unwrap(),
        "mine"
    );
    drop((file, sleeper));
    test.end();
}

#[test]
fn units_that_cannot_work_are_refused() {
    let Some(test) = Test::begin("units_that_cannot_work_are_refused") else {
        return;
    };
    let masked = HostFile::link("/etc/systemd/system/t-masked.service", "/dev/null");
    let shy = HostFile::unit(
        "t-shy.service",
        "[Unit]\nConditionVirtualization=!container\n[Service]\nExecStart=/bin/sleep infinity\n",
    );
    let empty = HostFile::unit("t-empty.service", "[Unit]\nDescription=No command\n");
    for (unit, words) in [
        ("t-masked.service", &["masked"][..]),
        ("t-shy.service", &["ConditionVirtualization=!container"]),
        ("t-shy.mount", &["t-shy.mount"]),
    ] {
        eprintln!("{unit}");
        let done = run(&["create", "-N", "none", "-u", unit, "t-bad"]);
        check(&done, 1, &[&[unit], words].concat());
        assert!(!std::path::Path::new("/etc/libvirt-sandbox/services/t-bad").exists());
    }
    drop((masked, shy, empty));
    test.end();
}

#[test]
fn only_root_can_use_the_program() {
    let Some(test) = Test::begin("only_root_can_use_the_program") else {
        return;
    };
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command
        .arg(program().get_program())
        .args(["create", "-u", "apache2.service", "t-x"]);
    let done = finish(command, "");
    // The build directory may be inaccessible to other users.
    if done.code == 127 || done.code == 126 {
        eprintln!("skipped: only_root_can_use_the_program: {}", done.stderr);
        return;
    }
    check(&done, 1, &["root"]);
    test.end();
}

#[test]
fn a_full_disk_leaves_nothing() {
    let Some(test) = Test::begin("a_full_disk_leaves_nothing") else {
        return;
    };
    let base = tempfile::Builder::new().prefix("t-").tempdir().unwrap();
    let path = base.path().to_str().unwrap();
    let mount = |options: &[&str]| {
        let status = Command::new("mount").args(options).arg(path).status();
        assert!(status.unwrap().success());
    };
    mount(&["-t", "tmpfs", "-o", "size=256k", "tmpfs"]);
    let done = run(&["create", "-p", path, "-u", "apache2.service", "t-full"]);
    let left = std::fs::read_dir(path).unwrap().count();
    let device = base.path().metadata().unwrap().dev();
    assert!(Command::new("umount").arg(path).status().unwrap().success());
    assert_ne!(base.path().metadata().unwrap().dev(), device);
    check(&done, 1, &["no space"]);
    assert_eq!(left, 0, "the tree is still there");
    test.end();
}
