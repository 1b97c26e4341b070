use super::*;

#[test]
fn what_is_not_ours_is_no_debris() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::below(root.path());
    let name: SandboxName = "old".parse().unwrap();
    assert!(!store.is_debris(&name), "there is no directory");
    let lock = store.reserve(&name).unwrap();
    fs::write(store.dir(&name).join(".virt-sandbox.2147483647.0.tmp"), "").unwrap();
    assert!(store.is_debris(&name));
    fs::create_dir(store.dir(&name).join("config")).unwrap();
    assert!(!store.is_debris(&name));
    drop(lock);
}

#[test]
fn only_the_directory_of_the_sandbox_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::below(root.path());
    let name: SandboxName = "web1".parse().unwrap();
    let _lock = store.reserve(&name).unwrap();
    fs::create_dir_all(store.stage(&name).join("usr")).unwrap();
    fs::create_dir_all(store.upgrade(&name)).unwrap();
    fs::write(store.config(&name), "").unwrap();
    store.delete(&name).unwrap();
    assert!(!store.dir(&name).exists() && !store.stage(&name).exists());
    assert!(store.configs.is_dir() && store.stages.is_dir());
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
