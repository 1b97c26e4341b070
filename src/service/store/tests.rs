use super::*;

#[test]
fn what_was_cut_short_is_found_once_nobody_works_on_it() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::below(root.path());
    let name: SandboxName = "web1".parse().unwrap();
    let removal = Removal {
        name: name.clone(),
        connection: "test:///".into(),
        uuid: uuid::Uuid::from_u128(7),
        tree: None,
        image: None,
        registered: false,
    };
    let lock = store.reserve(&name).unwrap();
    store.note_removal(&removal).unwrap();
    assert!(store.interrupted().unwrap().is_empty());
    drop(lock);
    let found = store.interrupted().unwrap();
    assert_eq!(
        found.iter().map(|(removal, _)| removal).collect::<Vec<_>>(),
        [&removal]
    );
    store.delete(&name);
    assert!(!store.configs.exists());
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::below(root.path());
    let name: SandboxName = "old".parse().unwrap();
    fs::create_dir_all(store.dir(&name).join("config")).unwrap();
    fs::write(store.dir(&name).join("config/sandbox.cfg"), "[core]").unwrap();
    assert!(store.interrupted().unwrap().is_empty());
    assert!(store.dir(&name).join("config/sandbox.cfg").exists());
}

#[test]
fn a_name_is_taken_once() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::below(root.path());
    let name: SandboxName = "web1".parse().unwrap();
    let _lock = store.reserve(&name).unwrap();
    let error = store.reserve(&name).unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
}
