use uuid::Uuid;

use super::*;
use crate::config::SandboxConfig;

fn store() -> (tempfile::TempDir, Store, SandboxName) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::below(root.path());
    let name: SandboxName = "web1".parse().unwrap();
    fs::create_dir_all(store.dir(&name).join("upgrade")).unwrap();
    (root, store, name)
}

fn removal() -> Removal {
    Removal {
        connection: "lxc:///".to_owned(),
        uuid: Uuid::from_u128(7),
        tree: Some("/srv/web1".into()),
        image: None,
        registered: true,
    }
}

fn log() -> UndoLog {
    UndoLog {
        tree: "/srv/web1".into(),
        image: None,
        steps: vec![Step::Remove {
            path: "/etc/x".into(),
            slot: 1,
        }],
        saved: vec![],
        domain: None,
        restarting: true,
    }
}

fn renaming() -> Renaming {
    Renaming {
        old: SandboxConfig::example(),
        new: SandboxConfig::example(),
        enabled: true,
    }
}

#[test]
fn intents_are_open_until_they_end() {
    let (_root, store, name) = store();
    assert_eq!(store.intents(&name).unwrap(), []);
    let all = [
        Intent::Remove(removal()),
        Intent::Freeze,
        Intent::Rename(Box::new(renaming())),
        Intent::Snapshot(SnapshotIntent::Discard),
        Intent::Upgrade(log()),
    ];
    for intent in all.iter().rev() {
        store.begin(&name, intent.clone()).unwrap();
        store.begin(&name, intent.clone()).unwrap();
    }
    assert_eq!(store.intents(&name).unwrap(), all);
    for intent in &all {
        assert!(store.has_intent(&name, intent.kind()).unwrap());
        store.end(&name, intent.kind()).unwrap();
        store.end(&name, intent.kind()).unwrap();
        assert!(!store.has_intent(&name, intent.kind()).unwrap());
    }
    assert!(!store.journal(&name).exists());
}

#[test]
fn notes_of_earlier_versions_are_understood() {
    let (_root, store, name) = store();
    let write = |file: &str, text: &str| fs::write(store.dir(&name).join(file), text).unwrap();
    let mut old_removal = serde_json::to_value(removal()).unwrap();
    old_removal["name"] = "web1".into();
    write("removal.json", &old_removal.to_string());
    write("frozen", "");
    let text = serde_json::to_string(&renaming()).unwrap();
    write("renaming.json", &text);
    write("snapshot.json", r#""discard""#);
    let text = serde_json::to_string(&log()).unwrap();
    write("upgrade/journal.json", &text);
    let expected = [
        Intent::Remove(removal()),
        Intent::Freeze,
        Intent::Rename(Box::new(renaming())),
        Intent::Snapshot(SnapshotIntent::Discard),
        Intent::Upgrade(log()),
    ];
    assert_eq!(store.intents(&name).unwrap(), expected);
    store.end(&name, Kind::Freeze).unwrap();
    assert_eq!(store.journal_files(&name), [store.journal(&name)]);
    let left = store.intents(&name).unwrap();
    let kinds: Vec<Kind> = left.iter().map(Intent::kind).collect();
    let expected = [Kind::Remove, Kind::Rename, Kind::Snapshot, Kind::Upgrade];
    assert_eq!(kinds, expected);
}
