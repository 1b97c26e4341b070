//! A command's view of the host's files, and its changes to them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

use crate::support::{Test, guest_init, open};

cases! {
    every:
        the_root_is_read_only,
        changes_of_a_volatile_root_vanish,
        the_run_directory_of_the_host_cannot_be_reached,
        sockets_of_the_host_cannot_be_reached,
        a_directory_is_shared,
        a_single_file_is_shared,
        a_share_may_be_read_only,
        missing_targets_are_made,
        a_temporary_directory_is_removed_afterwards,
        a_tmpfs_has_a_size,
        a_guest_bind_shows_a_directory_at_another_path,
        mounts_are_made_in_order,
        odd_names_can_be_written,
        the_root_may_be_a_directory,
        includes_are_copies,
        a_list_of_includes_is_read,
        includes_need_a_mount;
}

/// Returns `host-bind:TARGET=` with the test's directory.
fn bind(test: &Test, target: &str) -> String {
    format!("host-bind:{target}={}", test.directory().display())
}

fn the_root_is_read_only(test: &Test) {
    for place in ["/x", "/usr/x", "/etc/x", "/tmp/x", "/var/tmp/x"] {
        let done = test.run(&["-p"], &format!("LC_ALL=C touch {place}"));
        assert!(
            done.stderr.contains("Read-only file system"),
            "{place}: {done:?}"
        );
    }
    // Files there are the host's.
    assert_eq!(
        test.says(&[], "cat /etc/passwd"),
        fs::read_to_string("/etc/passwd").unwrap().trim_end()
    );
    let file = test.file("file", "text");
    assert_eq!(test.says(&[], &format!("cat {file}")), "text");
}

fn changes_of_a_volatile_root_vanish(test: &Test) {
    let file = test.file("file", "before");
    let script = format!(
        "echo after >{file}; touch /etc/r-new /usr/r-new /r-new; rm /etc/hostname; mkdir /srv/r-new; cat {file}; ls /etc/r-new"
    );
    assert_eq!(
        test.says(&["-p", "--volatile"], &script),
        "after\n/etc/r-new"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    for place in ["/etc/r-new", "/usr/r-new", "/r-new", "/srv/r-new"] {
        assert!(!fs::exists(place).unwrap(), "{place}");
    }
    assert!(fs::exists("/etc/hostname").unwrap());
}

fn the_run_directory_of_the_host_cannot_be_reached(test: &Test) {
    let own = tempfile::Builder::new()
        .prefix("r-")
        .tempdir_in("/run")
        .unwrap();
    assert_eq!(
        test.says(
            &["-p"],
            &format!(
                "ls -A /run; ls -A {} 2>/dev/null || echo none",
                own.path().display()
            )
        ),
        "none"
    );
    assert_eq!(test.says(&["-p"], "stat -f -c %T /run"), "tmpfs");
}

fn sockets_of_the_host_cannot_be_reached(test: &Test) {
    open(test.directory(), 0o777);
    let path = test.text("socket");
    let listener = UnixListener::bind(&path).unwrap();
    open(&path, 0o777);
    listener.set_nonblocking(true).unwrap();
    let connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let python = "/usr/bin/python3";
    if !fs::exists(python).unwrap() {
        eprintln!("skipped: connecting to a socket: there is no python3");
        return;
    }
    let done = test.run(&["-p"], &format!("{python} -c '{connect}' {path}"));
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("Error"), "{done:?}");
    assert!(listener.accept().is_err(), "nobody got through");
}

fn a_directory_is_shared(test: &Test) {
    test.file("sub/in", "from the host");
    let script = "cat /mnt/sub/in; mkdir /mnt/new; echo from inside >/mnt/new/out; mv /mnt/sub/in /mnt/sub/gone";
    assert_eq!(
        test.says(&["-m", &bind(test, "/mnt")], script),
        "from the host"
    );
    assert_eq!(
        fs::read_to_string(test.path("new/out")).unwrap(),
        "from inside\n"
    );
    assert!(!test.path("sub/in").exists() && test.path("sub/gone").exists());
    // The source may be a relative path.
    let mut command = test.command();
    command.current_dir(test.directory()).args([
        "-m",
        "host-bind:/mnt=new",
        "--",
        "cat",
        "/mnt/out",
    ]);
    assert_eq!(command.output().unwrap().stdout, b"from inside\n");
}

fn a_single_file_is_shared(test: &Test) {
    let file = test.file("file", "before\n");
    let mount = format!("host-bind:/etc/hostname={file}");
    // 9p shares directories only, and a copy is not the file.
    if test.driver.is_users() {
        let message = test.refusal(&["-m", &mount, "--", "true"]);
        assert!(message.contains("',ro' gives a copy"), "{message}");
        return;
    }
    assert_eq!(
        test.says(
            &["-m", &mount],
            "cat /etc/hostname; echo after >/etc/hostname"
        ),
        "before"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "after\n");
}

fn a_share_may_be_read_only(test: &Test) {
    let file = test.file("file", "before");
    let mount = format!("{},ro", bind(test, "/mnt"));
    let done = test.run(
        &["-p", "-m", &mount],
        "cat /mnt/file; echo after >/mnt/file",
    );
    assert!(
        done.stdout == "before" && done.stderr.contains("Read-only"),
        "{done:?}"
    );
    let mount = format!("host-bind:/etc/hostname={file},ro");
    let done = test.run(
        &["-p", "-m", &mount],
        "cat /etc/hostname; echo after >/etc/hostname",
    );
    assert!(
        done.stdout == "before" && done.stderr.contains("Read-only"),
        "{done:?}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
}

fn missing_targets_are_made(test: &Test) {
    let file = test.file("dir/file", "text");
    for target in ["/r-top", "/usr/share/r-deep/er/est", "/etc/r-new"] {
        let mount = format!("host-bind:{target}={}", test.text("dir"));
        assert_eq!(
            test.says(
                &["-m", &mount],
                &format!("cat {target}/file; ls /usr/bin/env")
            ),
            "text/usr/bin/env"
        );
        assert!(!fs::exists(target).unwrap(), "{target}");
        let mount = format!("host-bind:{target}={file},ro");
        assert_eq!(test.says(&["-m", &mount], &format!("cat {target}")), "text");
        assert!(!fs::exists(target).unwrap(), "{target}");
    }
    // Files beside them are still there.
    let script = "ls -A /usr/share | grep -v '^r-deep$' | wc -l";
    let here = fs::read_dir("/usr/share").unwrap().count().to_string();
    assert_eq!(
        test.says(&["-m", &bind(test, "/usr/share/r-deep")], script),
        here
    );
}

fn a_temporary_directory_is_removed_afterwards(test: &Test) {
    let script = "ls -A /mnt; stat -c %U /mnt; echo text >/mnt/file; cat /mnt/file; df --output=source /mnt | tail -n 1";
    for user in ["root", "nobody"] {
        let shown = test.says(&["-S", user, "-m", "host-bind:/mnt="], script);
        assert!(shown.starts_with(&format!("{user}\ntext\n")), "{shown}");
    }
    // Two mounts are independent.
    let two = ["-m", "host-bind:/mnt=", "-m", "host-bind:/srv="];
    assert_eq!(test.says(&two, "touch /mnt/file; ls -A /srv"), "");
}

fn a_tmpfs_has_a_size(test: &Test) {
    let size = |size: &str| {
        test.says(
            &["-m", &format!("ram:/mnt={size}")],
            "df -B1 --output=size,fstype /mnt | tail -n 1 | tr -s ' '",
        )
    };
    for (text, bytes) in [
        ("4096", 4096_u64),
        ("64K", 64 << 10),
        ("16M", 16 << 20),
        ("3G", 3 << 30),
        ("5GiB", 5 << 30),
    ] {
        assert_eq!(size(text).trim(), format!("{bytes} tmpfs"), "{text}");
    }
    let done = test.run(
        &["-m", "ram:/mnt=1M"],
        "head -c 2M /dev/zero >/mnt/file; stat -c %s /mnt/file",
    );
    assert!(
        done.stderr.contains("No space left") && done.stdout == "1048576\n",
        "{done:?}"
    );
}

fn a_guest_bind_shows_a_directory_at_another_path(test: &Test) {
    let guest = [
        "-m",
        &bind(test, "/mnt"),
        "-m",
        "guest-bind:/srv=/mnt/sub",
        "-m",
        "guest-bind:/opt=/mnt/sub,ro",
    ];
    test.file("sub/file", "text");
    let script = "cat /srv/file /opt/file; echo more >>/srv/file; cat /mnt/sub/file; touch /opt/x 2>/dev/null || echo ro";
    assert_eq!(test.says(&guest, script), "texttexttextmore\nro");
    // A single file.
    assert_eq!(
        test.says(
            &["-m", "guest-bind:/etc/hostname=/etc/passwd"],
            "cmp /etc/hostname /etc/passwd"
        ),
        ""
    );
}

fn mounts_are_made_in_order(test: &Test) {
    let file = test.file("file", "shared");
    let (bind, ram) = (bind(test, "/mnt"), "ram:/mnt=1M");
    let options = ["-m", &bind, "-m", ram, "-i", &format!("/mnt/copy={file}")];
    assert_eq!(
        test.says(&options, "ls -A /mnt; cat /mnt/copy; stat -f -c %T /mnt"),
        "copy\nsharedtmpfs"
    );
    assert!(!test.path("copy").exists());
    let options = ["-m", ram, "-m", &bind];
    assert_eq!(test.says(&options, "cat /mnt/file"), "shared");
    // One mount below another.
    let below = format!("host-bind:/mnt/a/b={}", test.directory().display());
    assert_eq!(
        test.says(&["-m", ram, "-m", &below], "cat /mnt/a/b/file; ls -A /mnt"),
        "shareda"
    );
}

fn odd_names_can_be_written(test: &Test) {
    for (name, written) in [
        ("a:b", r"a\:b"),
        ("a,ro", r"a\,ro"),
        ("a=b", r"a\=b"),
        ("a b'c", "a b'c"),
        (r"a\b", r"a\\b"),
        ("ä<&>\"", "ä<&>\""),
    ] {
        test.file(&format!("{name}/file"), name);
        let mount = format!("host-bind:/mnt={}/{written}", test.directory().display());
        assert_eq!(test.says(&["-m", &mount], "cat /mnt/file"), name);
        let mount = format!("host-bind:/srv/{written}={}", test.text(name));
        let mount = mount.replace(
            &test.text(name),
            &format!("{}/{written}", test.directory().display()),
        );
        assert_eq!(test.says(&["-m", &mount], "cat /srv/*/file"), name);
    }
}

fn the_root_may_be_a_directory(test: &Test) {
    // The root holds one static program.
    fs::create_dir(test.path("root")).unwrap();
    fs::copy(guest_init(), test.path("root/program")).unwrap();
    for root in [
        ["--root".to_owned(), test.text("root")],
        ["-m".into(), format!("host-bind:/={},ro", test.text("root"))],
    ] {
        let mut command = test.command();
        let output = command
            .args(&root)
            .args(["--", "/program", "--version"])
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stdout.starts_with(b"guest-init "),
            "{root:?}: {output:?}"
        );
    }
    // Missing mount points are not left in it.
    let names: Vec<_> = fs::read_dir(test.path("root"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["program"]);
}

fn includes_are_copies(test: &Test) {
    let file = test.file("file", "before");
    open(&file, 0o640);
    test.file("tree/a/b", "deep");
    std::os::unix::fs::symlink("a/b", test.path("tree/link")).unwrap();
    let options = [
        "-m",
        "ram:/mnt=1M",
        "-i",
        &format!("/mnt/file={file}"),
        "-i",
        &format!("/mnt/new/dir={}", test.text("tree")),
    ];
    let script = "cat /mnt/file /mnt/new/dir/a/b; readlink /mnt/new/dir/link; stat -c %a /mnt/file; \
                  echo after >/mnt/file; rm -r /mnt/new";
    assert_eq!(test.says(&options, script), "beforedeepa/b\n640");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    assert!(test.path("tree/a/b").exists());
    // Below a mount of the host, the copies are still there afterwards.
    let options = [
        "-m",
        &format!("host-bind:/mnt={}", test.dir("shared")),
        "-i",
        &format!("/mnt/x/copy={file}"),
    ];
    assert_eq!(test.says(&options, "echo more >>/mnt/x/copy"), "");
    assert_eq!(
        fs::read_to_string(test.path("shared/x/copy")).unwrap(),
        "beforemore\n"
    );
    assert_eq!(
        fs::metadata(test.path("shared/x/copy")).unwrap().mode() & 0o777,
        0o640
    );
    // The same path on host and guest.
    let mount = format!("ram:{}=1M", test.directory().display());
    assert_eq!(
        test.says(
            &["-m", &mount, "-i", &file],
            &format!("ls {}", test.directory().display())
        ),
        "file"
    );
}

fn a_list_of_includes_is_read(test: &Test) {
    let (one, two) = (test.file("one", "1"), test.file("two", "2"));
    let list = test.file(
        "list",
        format!("# a list\n/mnt/one={one}\n\n/mnt/two={two}\n"),
    );
    assert_eq!(
        test.says(&["-m", "ram:/mnt=1M", "-I", &list], "cat /mnt/one /mnt/two"),
        "12"
    );
    let list = test.file("bad", "/mnt/one=/a=/b\n");
    assert!(
        test.refusal(&["-m", "ram:/mnt=1M", "-I", &list, "--", "true"])
            .contains("line 1")
    );
}

fn includes_need_a_mount(test: &Test) {
    let file = test.file("file", "text");
    let read_only = format!("host-bind:/mnt={},ro", test.directory().display());
    for options in [
        vec!["-i", "/etc/hostname"],
        vec!["-m", "ram:/mnt=1M", "-i", "/mnt2/x=/etc/hostname"],
        vec!["-m", &read_only, "-i", "/mnt/x=/etc/hostname"],
    ] {
        let mut arguments = options.clone();
        arguments.extend(["--", "true"]);
        let line = test.refusal(&arguments);
        assert!(
            line.contains("mount") && line.contains('/'),
            "{options:?}: {line}"
        );
    }
    let missing = format!("/mnt/x={file}-not");
    let line = test.refusal(&["-m", "ram:/mnt=1M", "-i", &missing, "--", "true"]);
    assert!(line.contains("No such file"), "{line}");
}
