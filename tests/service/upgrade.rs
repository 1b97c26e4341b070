//! Upgrades of sandboxes after packages of the host have changed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::packages::{Content, Package, served};
use crate::support::{Done, Test, address, eventually, get, in_tree, ok, output, run};

/// Waits until a package's sandbox answers, and returns the answer.
pub fn answer(name: &str) -> String {
    let url = format!("http://{}:8000/", address(name));
    eventually("it answers", || get(&url).code == 0);
    get(&url).stdout
}

pub fn assert_answer(name: &str, has: &[&str], has_not: &[&str]) {
    let answer = answer(name);
    let lines: Vec<&str> = answer.lines().collect();
    for line in has {
        assert!(
            lines.contains(line),
            "{name}: '{line}' is missing:\n{answer}"
        );
    }
    for line in has_not {
        assert!(
            !lines.contains(line),
            "{name}: '{line}' is there:\n{answer}"
        );
    }
}

pub fn assert_says(done: &Done, words: &[&str]) {
    for word in words {
        let text = format!("{}{}", done.stdout, done.stderr);
        assert!(text.contains(word), "'{word}' is not in\n{text}");
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns everything of a sandbox that an upgrade may write, except the times of directories.
pub fn state(name: &str) -> String {
    state_in(name, &in_tree(name, ""))
}

/// Like [`state`], for a sandbox whose tree can be read at `tree`.
pub fn state_in(name: &str, tree: &Path) -> String {
    let script = "cd \"$1\" && find etc -printf '%p %y %m %U %G %l\\n' | sort && find etc -type f -print0 | sort -z | xargs -0 sha256sum";
    let mut text = output("sh", &["-c", script, "sh", tree.to_str().unwrap()]);
    let records = Path::new("/etc/libvirt-sandbox/services").join(name);
    for file in ["sandbox.toml", "manifest", "base.json"] {
        text.push_str(&read(records.join(file)));
    }
    text
}

/// Compares two states, and shows only the differences.
pub fn assert_same(before: &str, after: &str) {
    let differs = |one: &str, other: &str| {
        let other: HashSet<&str> = other.lines().collect();
        let lines = one.lines().filter(|line| !other.contains(line));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (gone, new) = (differs(before, after), differs(after, before));
    assert!(gone.is_empty() && new.is_empty(), "{gone:#?} {new:#?}");
}

#[test]
#[ignore = "slow: make test-slow"]
fn upgrades_bring_changes_of_five_packages() {
    let Some(test) = Test::begin("upgrades_bring_changes_of_five_packages") else {
        return;
    };
    // Plain conffiles, with every kind of difference between host and sandbox.
    let plain = |version, files: &[(&str, &str)]| Content {
        files: served("t-pkg-a", version, "", files),
        ..Content::default()
    };
    let a = Package::new(
        "t-pkg-a",
        &plain(
            "1.0",
            &[
                ("same", "1"),
                ("host", "1"),
                ("admin", "1"),
                ("both", "1"),
                ("gone", "1"),
                ("gone-admin", "1"),
                ("outside", "1"),
                ("removed", "1"),
                ("mode", "1"),
            ],
        ),
    );
    // The second version has a user of its own, made by sysusers.d.
    let users = |version, service, more: &[(&str, &str)], postinst| {
        let mut files = served("t-pkg-b", version, service, &[("conf", version)]);
        for (path, text) in more {
            files.push(((*path).to_owned(), (*text).to_owned()));
        }
        Content {
            files,
            postinst,
            ..Content::default()
        }
    };
    let b = Package::new("t-pkg-b", &users("1.0", "", &[], ""));
    // The second version has state directories, made by tmpfiles.d and, with a user, by the postinst.
    let c = Package::new(
        "t-pkg-c",
        &Content {
            files: served("t-pkg-c", "1.0", "", &[("conf", "1")]),
            ..Content::default()
        },
    );
    // Drop-in directories, and links that enable their parts.
    let d = Package::new(
        "t-pkg-d",
        &Content {
            files: served(
                "t-pkg-d",
                "1.0",
                "",
                &[("parts/one", "1"), ("parts/two", "1"), ("single", "1")],
            ),
            links: vec![("/etc/t-pkg-d/enabled", "parts/one")],
            ..Content::default()
        },
    );
    // Another unit and another StateDirectory.
    let e = Package::new(
        "t-pkg-e",
        &Content {
            files: served("t-pkg-e", "1.0", "StateDirectory=t-pkg-e", &[("conf", "1")]),
            ..Content::default()
        },
    );
    let names = ["t-pkg-a", "t-pkg-b", "t-pkg-c", "t-pkg-d", "t-pkg-e"];
    for name in names {
        ok(&["create", "--start", "-u", &format!("{name}.service"), name]);
        assert_answer(name, &["version 1.0"], &[]);
    }
    for name in names {
        let up_to_date = ok(&["upgrade", "--dry-run", name]);
        assert_eq!(up_to_date, format!("{name}: up to date\n"));
    }

    // Changes inside.
    let etc = |name: &str, path: &str| in_tree(name, &format!("etc/{name}/{path}"));
    for path in ["admin", "both", "gone-admin"] {
        fs::write(etc("t-pkg-a", path), "mine\n").unwrap();
    }
    fs::write(etc("t-pkg-a", "own"), "mine\n").unwrap();
    fs::remove_file(etc("t-pkg-a", "removed")).unwrap();
    fs::set_permissions(etc("t-pkg-a", "mode"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::write(etc("t-pkg-d", "parts/mine"), "mine\n").unwrap();
    fs::write(in_tree("t-pkg-e", "var/lib/t-pkg-e/data"), "kept\n").unwrap();
    // Changes by the host's administrator.
    fs::write("/etc/t-pkg-a/outside", "host's admin\n").unwrap();

    a.install(
        "2.0",
        &plain(
            "2.0",
            &[
                ("same", "1"),
                ("host", "2"),
                ("admin", "1"),
                ("both", "2"),
                ("outside", "1"),
                ("removed", "2"),
                ("mode", "2"),
                ("new", "2"),
            ],
        ),
    );
    // dpkg keeps conffiles that a package no longer has.
    for path in ["gone", "gone-admin"] {
        fs::remove_file(Path::new("/etc/t-pkg-a").join(path)).unwrap();
    }
    b.install(
        "2.0",
        &users(
            "2.0",
            "User=t-pkg-b",
            &[(
                "/usr/lib/sysusers.d/t-pkg-b.conf",
                "u t-pkg-b - \"of a test\" /var/lib/t-pkg-b\n",
            )],
            "systemd-sysusers t-pkg-b.conf",
        ),
    );
    let mut files = served(
        "t-pkg-c",
        "2.0",
        "User=t-pkg-c\nReadWritePaths=/var/lib/t-pkg-c",
        &[("conf", "2")],
    );
    files.push((
        "/usr/lib/tmpfiles.d/t-pkg-c.conf".into(),
        "d /var/lib/t-pkg-c 0750 t-pkg-c t-pkg-c -\n".into(),
    ));
    c.install(
        "2.0",
        &Content {
            files,
            postinst: "groupadd --system t-pkg-c\nuseradd --system --no-create-home -g t-pkg-c -d /nonexistent t-pkg-c\n\
                       systemd-tmpfiles --create t-pkg-c.conf",
            ..Content::default()
        },
    );
    d.install(
        "2.0",
        &Content {
            files: served(
                "t-pkg-d",
                "2.0",
                "",
                &[
                    ("parts/one", "1"),
                    ("parts/three", "2"),
                    ("more/deep", "2"),
                    ("single", "1"),
                ],
            ),
            links: vec![("/etc/t-pkg-d/enabled", "parts/three")],
            ..Content::default()
        },
    );
    fs::remove_file("/etc/t-pkg-d/parts/two").unwrap();
    e.install(
        "2.0",
        &Content {
            files: served(
                "t-pkg-e",
                "2.0",
                "StateDirectory=t-pkg-e t-pkg-e/more",
                &[("conf", "2")],
            ),
            ..Content::default()
        },
    );

    // A dry run lists the changes and makes none.
    let before: Vec<String> = names.iter().map(|name| state(name)).collect();
    let preview = run(&["upgrade", "--all", "--dry-run"]);
    assert_eq!(preview.code, 0, "{preview:?}");
    assert_says(
        &preview,
        &[
            "t-pkg-a 1.0 is 2.0 now",
            "conflict  /etc/t-pkg-a/both, the host's is /etc/t-pkg-a/both.virt-sandbox-new",
            "removed   /etc/t-pkg-a/gone ",
            "--- sandbox/etc/t-pkg-a/host\n+++ host/etc/t-pkg-a/host\n@@ -1 +1 @@\n-1\n+2\n",
            "'t-pkg-b' is new on the host",
            "added     /var/lib/t-pkg-c",
        ],
    );
    for (name, before) in names.iter().zip(before) {
        assert_same(&before, &state(name));
    }

    // Upgraded without a restart: running services are not touched.
    let done = run(&["upgrade", "--all"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_says(&done, &["conflict  /etc/t-pkg-a/both", "restart"]);
    for name in names {
        assert_answer(name, &["version 1.0"], &[]);
        assert!(!in_tree(name, ".upgrade").exists());
    }
    for (path, text) in [
        ("same", Some("1\n")),
        ("host", Some("2\n")),
        ("admin", Some("mine\n")),
        ("both", Some("mine\n")),
        ("both.virt-sandbox-new", Some("2\n")),
        ("gone", None),
        ("gone-admin", Some("mine\n")),
        ("outside", Some("host's admin\n")),
        ("own", Some("mine\n")),
        ("removed", None),
        ("mode", Some("2\n")),
        ("new", Some("2\n")),
        ("admin.virt-sandbox-new", None),
    ] {
        let found = fs::read_to_string(etc("t-pkg-a", path)).ok();
        assert_eq!(found.as_deref(), text, "{path}");
    }
    let mode = fs::metadata(etc("t-pkg-a", "mode")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o604);
    let passwd = read(in_tree("t-pkg-b", "etc/passwd"));
    assert!(passwd.contains("t-pkg-b:x:"), "{passwd}");
    let owner = output("stat", &["-c", "%u %g %a", "/var/lib/t-pkg-c"]);
    let made = in_tree("t-pkg-c", "var/lib/t-pkg-c");
    assert_eq!(
        output("stat", &["-c", "%u %g %a", made.to_str().unwrap()]),
        owner
    );
    assert!(!etc("t-pkg-d", "parts/two").exists());
    assert_eq!(read(etc("t-pkg-d", "parts/mine")), "mine\n");
    let enabled = fs::read_link(etc("t-pkg-d", "enabled")).unwrap();
    assert_eq!(enabled, Path::new("parts/three"));

    // With a restart, all answer as the second version.
    let done = run(&["upgrade", "--all", "--restart"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.stdout.matches("; restarted").count(), 5, "{done:?}");
    assert_answer(
        "t-pkg-a",
        &[
            "version 2.0",
            "host 2",
            "admin mine",
            "both mine",
            "own mine",
        ],
        &["gone 1", "removed 2"],
    );
    assert_answer("t-pkg-b", &["version 2.0", "user t-pkg-b", "conf 2.0"], &[]);
    assert_answer(
        "t-pkg-c",
        &["version 2.0", "user t-pkg-c", "writes /var/lib/t-pkg-c"],
        &[],
    );
    assert_answer(
        "t-pkg-d",
        &["version 2.0", "more/deep 2", "parts/mine mine", "enabled 2"],
        &["parts/two 1"],
    );
    assert_answer(
        "t-pkg-e",
        &[
            "version 2.0",
            "../../var/lib/t-pkg-e/data kept",
            "writes /var/lib/t-pkg-e/more",
        ],
        &[],
    );
    // A second upgrade has nothing to do, and restarts nothing.
    let id = || output("sh", &["-c", "pgrep -f '[t]-pkg-./serve' | sort"]);
    let before = id();
    let done = run(&["upgrade", "--all", "--restart"]);
    assert_eq!(done.code, 0, "{done:?}");
    for name in names {
        let line = format!("{name}: up to date");
        assert!(done.stdout.lines().any(|said| said == line), "{done:?}");
    }
    assert_eq!(id(), before);
    for name in names {
        ok(&["delete", "--force", name]);
    }
    drop((a, b, c, d, e));
    test.end();
}
