use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// Builds a root with a secret beside it that no path from inside may reach.
fn fixture() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("etc/real")).unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    fs::write(tree.join("secret"), "inside").unwrap();
    fs::write(tree.join("etc/real/file"), "content").unwrap();
    symlink("/etc/real", tree.join("etc/absolute")).unwrap();
    symlink("../../../../secret", tree.join("etc/climbing")).unwrap();
    symlink(dir.path().join("secret"), tree.join("etc/host")).unwrap();
    symlink("/nowhere", tree.join("etc/dangling")).unwrap();
    symlink("loop", tree.join("etc/loop")).unwrap();
    let root = Root::new(&tree).unwrap();
    (dir, root)
}

fn read(root: &Root, path: &Path) -> String {
    io::read_to_string(root.resolve(path).unwrap().open().unwrap()).unwrap()
}

#[test]
fn links_resolve_inside() {
    let (_dir, root) = fixture();
    let cases = [
        ("/etc/real/file", "content", "/etc/real/file"),
        ("etc/real/file", "content", "/etc/real/file"),
        ("/etc/absolute/file", "content", "/etc/real/file"),
        ("/etc/climbing", "inside", "/secret"),
        ("/../../secret", "inside", "/secret"),
    ];
    for (path, content, canonical) in cases {
        let path = Path::new(path);
        assert_eq!(read(&root, path), content, "{path:?}");
        assert_eq!(root.canonical(path).unwrap(), Path::new(canonical));
    }
    assert_eq!(root.canonical(Path::new("/")).unwrap(), Path::new("/"));
    for path in ["/etc/host", "/etc/dangling", "/etc/none", "/secret/x"] {
        let error = root.resolve(Path::new(path)).unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }
    let error = root.resolve(Path::new("/etc/loop")).unwrap_err();
    assert!(!error.is_not_found(), "{error}");
}

#[test]
fn an_object_is_not_followed() {
    let (_dir, root) = fixture();
    let link = root.object(Path::new("/etc/absolute")).unwrap();
    assert!(link.metadata().unwrap().is_symlink());
    assert_eq!(link.read_link().unwrap(), Path::new("/etc/real"));
    let names = root
        .object(Path::new("/etc/real"))
        .unwrap()
        .names()
        .unwrap();
    assert_eq!(names, ["file"]);
}

#[test]
fn what_is_not_a_file_is_refused_without_waiting() {
    let (dir, root) = fixture();
    let fifo = dir.path().join("tree/fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let error = root
        .resolve(Path::new("/fifo"))
        .unwrap()
        .open()
        .unwrap_err();
    assert!(matches!(error, RootError::NotAFile { .. }), "{error}");
}

#[test]
fn writing_stays_inside() {
    let (dir, root) = fixture();
    root.write_atomic(Path::new("/etc/absolute/new"), b"x", 0o640)
        .unwrap();
    let new = dir.path().join("tree/etc/real/new");
    assert_eq!(
        fs::metadata(&new).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    // The last component is replaced, never followed.
    root.write_atomic(Path::new("/etc/climbing"), b"y", 0o644)
        .unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("tree/secret")).unwrap(),
        "inside"
    );
    // A parent that points to the host leads to the same path inside, which does not exist.
    symlink(dir.path(), dir.path().join("tree/out")).unwrap();
    assert!(
        root.write_atomic(Path::new("/out/secret"), b"z", 0o644)
            .is_err()
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("secret")).unwrap(),
        "outside"
    );
    for path in ["/", "/etc/.."] {
        let error = root.write_atomic(Path::new(path), b"", 0o644).unwrap_err();
        assert!(matches!(error, RootError::NoName { .. }), "{error}");
    }
}

#[test]
fn directories_are_made_where_they_are_missing() {
    let (dir, root) = fixture();
    let own = fs::metadata(dir.path()).unwrap();
    let make = |path: &str| root.create_dir_all(Path::new(path), 0o1770, own.uid(), own.gid());
    make("/etc/absolute/a/b").unwrap();
    make("/etc/absolute/a/b").unwrap();
    make("/").unwrap();
    let made = dir.path().join("tree/etc/real/a/b");
    assert_eq!(
        fs::metadata(&made).unwrap().permissions().mode() & 0o7777,
        0o1770
    );
    let kept = fs::metadata(dir.path().join("tree/etc/real")).unwrap();
    assert_ne!(kept.permissions().mode() & 0o7777, 0o1770);
    for path in ["/etc/dangling/a", "/secret/a", "/secret", "/etc/../up"] {
        assert!(make(path).is_err(), "{path}");
    }
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn links_are_made_and_owned() {
    let (dir, root) = fixture();
    let path = Path::new("/etc/absolute/link");
    root.symlink(Path::new("/secret"), path).unwrap();
    assert!(root.symlink(Path::new("/secret"), path).is_err());
    assert_eq!(read(&root, path), "inside");
    let own = fs::metadata(dir.path()).unwrap();
    root.chown(Path::new("/etc/real/link"), own.uid(), own.gid())
        .unwrap();
    assert!(root.chown(path, own.uid(), own.gid()).is_err());
}

#[test]
fn the_host_root_works_too() {
    let root = Root::new(Path::new("/")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    assert_eq!(read(&root, &dir.path().join("f")), "x");
    let canonical = root.canonical(dir.path()).unwrap();
    assert_eq!(canonical, dir.path().canonicalize().unwrap());
}

#[test]
fn objects_are_moved_and_exchanged_without_following_links() {
    let dir = tempfile::tempdir().unwrap();
    for place in ["tree/etc", "slots", "outside"] {
        fs::create_dir_all(dir.path().join(place)).unwrap();
    }
    let root = |place: &str| Root::new(&dir.path().join(place)).unwrap();
    let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    let (tree, slots) = (root("tree"), root("slots"));
    fs::write(dir.path().join("tree/etc/a"), "old").unwrap();
    fs::write(dir.path().join("slots/0"), "new").unwrap();
    let (a, slot) = (Path::new("/etc/a"), Path::new("/0"));
    tree.exchange(a, &slots, slot).unwrap();
    assert_eq!(
        (read("tree/etc/a"), read("slots/0")),
        ("new".into(), "old".into())
    );
    assert!(slots.move_to(slot, &tree, a).is_err(), "something is there");
    tree.move_to(a, &slots, Path::new("/1")).unwrap();
    assert!(!tree.has(a).unwrap());
    slots.move_to(slot, &tree, a).unwrap();

    symlink("../../outside", dir.path().join("tree/etc/link")).unwrap();
    let behind = Path::new("/etc/link/x");
    assert!(slots.move_to(Path::new("/1"), &tree, behind).is_err());
    assert!(tree.has(behind).is_err() && tree.has(Path::new("/etc/link")).unwrap());
    let object = tree.plain_object(a).unwrap();
    object.set_attributes(0o4750, 12, 34).unwrap();
    let metadata = fs::metadata(dir.path().join("tree/etc/a")).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o4750, 12, 34)
    );
    tree.sync().unwrap();
}
