//! The root of a sandbox with real mounts: a staging root in a tmpfs, in a mount namespace that ends with the thread of the test.
//! Needs root; skipped without.
#![allow(clippy::unwrap_used)]

mod image;
mod isolated;
mod stage;

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use guest_init::config::{Access, Include, Mount, Source};
use stage::{Stage, in_stage, tmpfs};

fn stage_mount(source: &str, target: &str, read_only: bool) -> Mount {
    Mount::Bind {
        source: Source::Stage(source.into()),
        target: target.into(),
        read_only,
    }
}

fn is_read_only(path: &str) -> bool {
    let probe = Path::new(path).join("probe");
    match fs::create_dir(&probe) {
        Ok(()) => fs::remove_dir(probe).map(|()| false).unwrap(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{path}");
            true
        }
    }
}

/// Makes a small tree with another filesystem at `/home`, and a third one below it.
fn host(stage: &Stage) {
    for directory in ["proc", "sys", "dev", "etc", "home", "srv/a"] {
        fs::create_dir_all(stage.path(&format!("/host/{directory}"))).unwrap();
    }
    fs::write(stage.path("/host/etc/passwd"), "root").unwrap();
    tmpfs(&stage.path("/host/home"));
    fs::create_dir(stage.path("/host/home/me")).unwrap();
    tmpfs(&stage.path("/host/home/me"));
    fs::write(stage.path("/host/home/me/file"), "mine").unwrap();
}

#[test]
fn all_of_a_read_only_tree_is_read_only() {
    in_stage(|mut stage| {
        host(&stage);
        stage.root(Access::ReadOnly, &["/srv/a"]);
        stage.enter();
        for path in ["/", "/home", "/home/me", "/etc"] {
            assert!(is_read_only(path), "{path}");
        }
        assert_eq!(fs::read_to_string("/home/me/file").unwrap(), "mine");
        assert!(!stage::has_overlay(), "all that is needed is there");
    });
}

#[test]
fn a_writable_tree_is_the_hosts_own() {
    in_stage(|mut stage| {
        host(&stage);
        let outside = stage.outside("/host");
        stage.root(Access::Writable, &[]);
        stage.enter();
        fs::write("/home/me/file", "new").unwrap();
        fs::write("/new", "").unwrap();
        assert_eq!(fs::read(outside.join("home/me/file")).unwrap(), b"new");
        assert!(outside.join("new").exists());
    });
}

#[test]
fn what_is_changed_in_a_volatile_tree_is_thrown_away() {
    in_stage(|mut stage| {
        host(&stage);
        let resolv = stage.path("/resolv");
        fs::write(&resolv, "outside").unwrap();
        fs::write(stage.path("/host/etc/resolv.conf"), "").unwrap();
        stage::bind(&resolv, &stage.path("/host/etc/resolv.conf"));
        let outside = stage.outside("/host");
        stage.root(Access::Volatile, &["/new/a"]);
        stage.enter();
        for path in ["/etc/passwd", "/home/me/file", "/etc/resolv.conf"] {
            assert!(!fs::read(path).unwrap().is_empty(), "{path}");
            fs::write(path, "changed").unwrap();
        }
        fs::rename("/srv/a", "/srv/b").unwrap();
        fs::remove_file("/etc/passwd").unwrap();
        stage.add(&stage_mount("/host", "/new/a", false)).unwrap();
        assert_eq!(fs::read(outside.join("etc/passwd")).unwrap(), b"root");
        assert_eq!(fs::read(outside.join("home/me/file")).unwrap(), b"mine");
        assert_eq!(
            fs::read(outside.join("etc/resolv.conf")).unwrap(),
            b"outside"
        );
        assert!(outside.join("srv/a").exists() && !outside.join("new").exists());
    });
}

#[test]
fn an_empty_tree_gets_mount_points() {
    in_stage(|mut stage| {
        fs::create_dir(stage.path("/host")).unwrap();
        fs::write(stage.path("/host/program"), "static").unwrap();
        fs::set_permissions(stage.path("/host"), fs::Permissions::from_mode(0o750)).unwrap();
        let outside = stage.outside("/host");
        fs::write(stage.path("/file"), "a file").unwrap();
        stage.root(Access::ReadOnly, &["/run", "/data/x", "/one"]);
        stage.enter();
        let run = Mount::Tmpfs {
            target: "/run".into(),
            mode: 0o755,
            size: None,
        };
        stage.add(&run).unwrap();
        stage.add(&stage_mount("/file", "/one", false)).unwrap();
        stage.add(&stage_mount("/host", "/data/x", true)).unwrap();
        assert_eq!(fs::read_to_string("/one").unwrap(), "a file");
        assert_eq!(fs::read_to_string("/data/x/program").unwrap(), "static");
        assert!(is_read_only("/") && is_read_only("/data") && !is_read_only("/run"));
        assert_eq!(fs::metadata("/").unwrap().mode() & 0o777, 0o750);
        let there: Vec<_> = fs::read_dir(outside).unwrap().collect();
        assert_eq!(there.len(), 1, "nothing is made in the tree itself");
    });
}

#[test]
fn mount_points_are_made_deep_in_a_read_only_tree() {
    in_stage(|mut stage| {
        host(&stage);
        fs::create_dir_all(stage.path("/mnt/0/sub")).unwrap();
        fs::write(stage.path("/file"), "a file").unwrap();
        symlink("/srv/a", stage.path("/host/link")).unwrap();
        stage.root(Access::ReadOnly, &[]);
        stage.enter();
        // In a directory with a mount below it, which has to stay.
        stage
            .add(&stage_mount("/mnt/0", "/home/you/x", false))
            .unwrap();
        stage
            .add(&stage_mount("/file", "/home/one", false))
            .unwrap();
        stage.add(&stage_mount("/mnt/0", "/link/b", true)).unwrap();
        // In a read-only mount of the user.
        stage
            .add(&stage_mount("/mnt/0", "/srv/a/b/sub/c", false))
            .unwrap();
        assert_eq!(fs::read_to_string("/home/me/file").unwrap(), "mine");
        assert_eq!(fs::read_to_string("/home/one").unwrap(), "a file");
        assert!(Path::new("/home/you/x/sub").is_dir());
        assert!(Path::new("/srv/a/b/sub/c/sub").is_dir());
        for path in [
            "/home",
            "/home/me",
            "/home/you",
            "/srv/a",
            "/srv/a/b",
            "/srv/a/b/sub",
        ] {
            assert!(is_read_only(path), "{path}");
        }
        assert!(!is_read_only("/home/you/x") && !is_read_only("/srv/a/b/sub/c"));
    });
}

#[test]
fn mounts_are_stacked_as_they_are_given() {
    in_stage(|mut stage| {
        host(&stage);
        fs::create_dir_all(stage.path("/mnt/0/in")).unwrap();
        fs::create_dir_all(stage.path("/mnt/1")).unwrap();
        fs::write(stage.path("/mnt/0/in/name"), "first").unwrap();
        fs::write(stage.path("/mnt/1/name"), "second").unwrap();
        stage.root(Access::ReadOnly, &[]);
        stage.enter();
        let inside = |source: &str, target: &str| Mount::Bind {
            source: Source::Sandbox(source.into()),
            target: target.into(),
            read_only: true,
        };
        stage.add(&stage_mount("/mnt/0", "/srv", false)).unwrap();
        stage.add(&inside("/srv/in", "/etc")).unwrap();
        stage.add(&stage_mount("/mnt/1", "/srv/in", false)).unwrap();
        stage.add(&inside("/srv/in/name", "/home/me/file")).unwrap();
        let read = |path: &str| fs::read_to_string(path).unwrap();
        assert_eq!(read("/etc/name"), "first");
        assert_eq!(read("/srv/in/name"), "second");
        assert_eq!(read("/home/me/file"), "second");

        let missing = stage.add(&inside("/no/such", "/etc")).unwrap_err();
        assert_eq!(
            format!("{missing:#}"),
            "mounting '/etc': its source: No such file or directory (os error 2)"
        );
        let on_file = stage.add(&inside("/srv", "/etc/name")).unwrap_err();
        let said = format!("{on_file:#}");
        assert!(
            said.starts_with("mounting '/etc/name': ") && said.contains("exists"),
            "{said}"
        );
    });
}

#[test]
fn what_is_included_is_like_its_source() {
    in_stage(|mut stage| {
        host(&stage);
        fs::create_dir_all(stage.path("/in/tree/deep")).unwrap();
        fs::write(stage.path("/in/tree/deep/file"), "included").unwrap();
        let mode = fs::Permissions::from_mode(0o4710);
        fs::set_permissions(stage.path("/in/tree/deep/file"), mode).unwrap();
        std::os::unix::fs::chown(stage.path("/in/tree/deep/file"), Some(7), Some(8)).unwrap();
        symlink("nowhere", stage.path("/in/tree/link")).unwrap();
        let like = fs::metadata(stage.path("/in/tree/deep/file")).unwrap();
        fs::create_dir(stage.path("/mnt")).unwrap();
        fs::write(stage.path("/mnt/kept"), "kept").unwrap();
        symlink("kept", stage.path("/mnt/over")).unwrap();
        stage.root(Access::ReadOnly, &[]);
        stage.enter();
        stage.add(&stage_mount("/mnt", "/srv", false)).unwrap();
        let include = |source: &str, target: &str| Include {
            source: source.into(),
            target: target.into(),
        };
        stage.include(&include("/in/tree", "/srv/a/b")).unwrap();
        stage.include(&include("/in/tree", "/srv/a/b")).unwrap();
        let file = fs::metadata("/srv/a/b/deep/file").unwrap();
        let facts = |of: &fs::Metadata| (of.mode(), of.uid(), of.gid(), of.mtime_nsec(), of.len());
        assert_eq!(facts(&file), facts(&like));
        assert_eq!(
            fs::read_link("/srv/a/b/link").unwrap(),
            Path::new("nowhere")
        );
        // A link is replaced, its target is not.
        stage
            .include(&include("/in/tree/deep/file", "/srv/over"))
            .unwrap();
        assert_eq!(fs::read_to_string("/srv/kept").unwrap(), "kept");
        assert_eq!(fs::read_to_string("/srv/over").unwrap(), "included");
        let error = stage.include(&include("/in/tree", "/etc/x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "copying to '/etc/x': read-only, and no writable mount covers it"
        );
    });
}

#[test]
fn a_file_of_its_own_is_laid_over_what_cannot_be_written() {
    in_stage(|mut stage| {
        host(&stage);
        let link = "../run/resolve/stub";
        symlink(link, stage.path("/host/etc/resolv.conf")).unwrap();
        fs::write(stage.path("/host/etc/hosts"), "before").unwrap();
        let outside = stage.outside("/host");
        stage.root(Access::ReadOnly, &["/run"]);
        stage.enter();
        let run = Mount::Tmpfs {
            target: "/run".into(),
            mode: 0o755,
            size: None,
        };
        stage.add(&run).unwrap();
        for (path, before) in [
            ("/etc/resolv.conf", ""),
            ("/etc/hosts", "before"),
            ("/etc/new", ""),
        ] {
            let mut file = stage.overlay_file(path).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), before, "{path}");
            file.set_len(0).unwrap();
            file.write_all(b"own").unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "own", "{path}");
        }
        assert_eq!(fs::read_to_string("/run/resolve/stub").unwrap(), "own");
        assert_eq!(fs::read(outside.join("etc/hosts")).unwrap(), b"before");
        assert!(is_read_only("/etc") && !outside.join("etc/new").exists());
    });
}
