use super::*;

const UUID: Uuid = Uuid::from_u128(7);

#[test]
fn removal_restores_the_place() {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("a/b/web1");
    make(&tree, UUID).unwrap();
    assert_eq!(
        fs::metadata(&tree).unwrap().permissions().mode() & 0o777,
        0o700
    );
    fs::create_dir_all(tree.join("etc/x")).unwrap();
    remove(&tree, UUID).unwrap();
    assert!(fs::read_dir(root.path()).unwrap().next().is_none());

    let kept = root.path().join("kept");
    fs::create_dir(&kept).unwrap();
    make(&kept, UUID).unwrap();
    remove(&kept, UUID).unwrap();
    assert!(kept.is_dir());
}

#[test]
fn removal_restores_a_renamed_place() {
    let root = tempfile::tempdir().unwrap();
    let (from, to) = (root.path().join("web1"), root.path().join("web2"));
    make(&from, UUID).unwrap();
    for _ in 0..2 {
        super::rename(&from, &to, UUID).unwrap();
    }
    assert!(super::rename(&from, &to, Uuid::from_u128(8)).is_err());
    remove(&to, UUID).unwrap();
    assert!(fs::read_dir(root.path()).unwrap().next().is_none());
}

#[test]
fn a_top_whose_marking_was_cut_short_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("web1");
    fs::create_dir(&tree).unwrap();
    // No process has this number: it is above the kernel's limit.
    fs::write(tree.join(".virt-sandbox.2147483647.0.tmp"), "{").unwrap();
    assert!(check_presence(&tree).is_err());
    remove(&tree, UUID).unwrap();
    assert!(!tree.exists());
    assert!(check_presence(&tree).is_err());
    make(&tree, UUID).unwrap();
    check_presence(&tree).unwrap();
}

#[test]
fn foreign_directories_are_neither_taken_nor_removed() {
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("web1");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("letter"), "dear").unwrap();
    assert!(make(&tree, UUID).is_err());
    assert!(remove(&tree, UUID).is_err());
    assert!(tree.join("letter").exists());

    let other = root.path().join("other");
    make(&other, Uuid::from_u128(8)).unwrap();
    assert!(remove(&other, UUID).is_err());
    assert!(make(&other.join("var/web2"), UUID).is_err());

    let link = root.path().join("link");
    std::os::unix::fs::symlink(root.path(), &link).unwrap();
    assert!(make(&link, UUID).is_err());
}
