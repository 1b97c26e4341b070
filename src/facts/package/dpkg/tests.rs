use std::fs;
use std::time::Instant;

use super::super::dependency_closure;
use super::*;

/// Makes a root whose database has these files.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join("var/lib/dpkg").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

const STATUS: &str = "\
Package: dpkg
Essential: yes
Status: install ok installed
Architecture: amd64
Version: 1.21

Package: webd
Status: install ok installed
Priority: optional
Architecture: amd64
Source: webd-src (3.0)
Version: 2:3.1-1
Pre-Depends: dpkg (>= 1)
Depends: libx (>= 1), mta | mail-transport-agent, perl:any, absent | webd-data
Provides: httpd, httpd-cgi (= 2)
Conffiles:
 /etc/webd/webd.conf 0123
Description: web
 Package: not-a-package

Package: webd-data
Status: hold ok installed
Priority: important
Architecture: all
Source: webd-src
Version: 3.1-1

Package: libx
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 1

Package: libx
Status: install ok installed
Architecture: i386
Multi-Arch: same
Source: libx
Version: 1

Package: postman
Status: install ok triggers-pending
Architecture: amd64
Version: 1
Provides: mail-transport-agent

Package: perl
Status: install ok installed
Architecture: amd64
Version: 5
Depends: httpd

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: half
Status: install ok half-configured
Architecture: amd64
Version: 1
";

fn example() -> (tempfile::TempDir, Dpkg) {
    let root = root(&[
        ("status", STATUS),
        (
            "info/webd.list",
            "/.\n/etc\n/etc/webd\n/etc/webd/webd.conf\n/lib/systemd/system/webd.service\n/usr/bin/tool\n/usr/share/a/b/c/d\n",
        ),
        ("info/webd.postinst", "#!/bin/sh\nmkdir -p /var/lib/webd\n"),
        ("info/webd.config", "db_input\n"),
        (
            "info/webd-data.list",
            "/.\n/etc\n/etc/webd\n/usr/bin/tool.moved\n",
        ),
        (
            "info/libx:amd64.list",
            "/.\n/usr/lib/x86_64-linux-gnu/libx.so\n",
        ),
        (
            "info/libx:i386.list",
            "/.\n/usr/lib/i386-linux-gnu/libx.so\n",
        ),
        ("info/postman.list", "/.\n/usr/bin/tool\n/etc/local\n"),
        (
            "diversions",
            "/usr/bin/tool\n/usr/bin/tool.orig\npostman\n/etc/local\n/etc/local.distrib\n:\n",
        ),
    ]);
    let dpkg = Dpkg::open(root.path()).unwrap().unwrap();
    (root, dpkg)
}

fn names(names: impl IntoIterator<Item = PackageName>) -> Vec<String> {
    names.into_iter().map(|name| name.to_string()).collect()
}

#[test]
fn only_installed_packages_count() {
    let (_root, dpkg) = example();
    assert_eq!(
        names(dpkg.installed.keys().cloned()),
        [
            "dpkg",
            "libx",
            "libx:i386",
            "perl",
            "postman",
            "webd",
            "webd-data"
        ]
    );
    for missing in ["gone", "half", "webd:i386", "none"] {
        assert!(
            matches!(
                dpkg.info(&missing.into()),
                Err(PackageError::NotInstalled { .. })
            ),
            "{missing}"
        );
    }
    assert_eq!(
        dpkg.info(&"webd:amd64".into()).unwrap().name.as_str(),
        "webd"
    );
}

#[test]
fn dependencies_resolve_to_installed_packages() {
    let (_root, dpkg) = example();
    let webd = dpkg.info(&"webd".into()).unwrap();
    assert_eq!(
        (webd.version.as_str(), webd.source.as_str(), webd.base),
        ("2:3.1-1", "webd-src", false)
    );
    assert_eq!(
        names(webd.dependencies),
        ["dpkg", "libx", "perl", "postman", "webd-data"]
    );
    assert!(dpkg.info(&"webd-data".into()).unwrap().base);
    // perl depends on a virtual package that webd provides; webd and perl depend on each other.
    assert_eq!(names(dpkg.dependants(&"webd".into()).unwrap()), ["perl"]);
    let closure = dependency_closure(&dpkg, &["perl".into()]).unwrap();
    assert_eq!(
        names(closure),
        ["dpkg", "libx", "perl", "postman", "webd", "webd-data"]
    );
}

#[test]
fn owners_know_both_spellings_and_diversions() {
    let (_root, dpkg) = example();
    for (path, expected) in [
        ("/lib/systemd/system/webd.service", &["webd"][..]),
        ("/usr/lib/systemd/system/webd.service", &["webd"]),
        ("/etc/webd", &["webd", "webd-data"]),
        ("/etc/webd/", &["webd", "webd-data"]),
        ("/usr/share/a/b/c/d", &["webd"]),
        ("/bin/tool", &["postman"]),
        ("/usr/bin/tool.orig", &["webd"]),
        ("/etc/local", &[]),
        ("/etc/local.distrib", &["postman"]),
        ("/etc/nobody", &[]),
        ("/usr/share/a/b/c/e", &[]),
    ] {
        assert_eq!(
            names(dpkg.owners(Path::new(path)).unwrap()),
            expected,
            "{path}"
        );
    }
}

#[test]
fn files_and_scripts_come_from_info() {
    let (_root, dpkg) = example();
    assert_eq!(
        dpkg.files(&"libx:i386".into()).unwrap(),
        [Path::new("/usr/lib/i386-linux-gnu/libx.so")]
    );
    assert_eq!(dpkg.files(&"webd".into()).unwrap().len(), 6);
    assert_eq!(
        dpkg.scripts(&"webd".into()).unwrap(),
        "db_input\n\n#!/bin/sh\nmkdir -p /var/lib/webd\n\n"
    );
    assert_eq!(dpkg.scripts(&"libx".into()).unwrap(), "");
}

#[test]
fn the_database_of_this_system_can_be_read() {
    let Some(dpkg) = Dpkg::open(Path::new("/")).unwrap() else {
        println!("SKIP: this system has no dpkg database");
        return;
    };
    let unit = ["/lib", "/usr/lib"]
        .map(|lib| Path::new(lib).join("systemd/system/systemd-journald.service"));
    let systemd = PackageName::from("systemd");
    if dpkg.info(&systemd).is_err() {
        println!("SKIP: systemd is not installed on this system");
        return;
    }
    let start = Instant::now();
    for unit in unit {
        assert_eq!(names(dpkg.owners(&unit).unwrap()), ["systemd"]);
    }
    println!(
        "first question: {:?}, {} paths indexed",
        start.elapsed(),
        dpkg.index().unwrap().len()
    );
    let closure = names(dependency_closure(&dpkg, &[systemd]).unwrap());
    assert!(closure.contains(&"libc6".to_owned()), "{closure:?}");
    assert!(
        dpkg.users_of_directory(Path::new("/etc/default"))
            .unwrap()
            .len()
            > 1
    );
}
