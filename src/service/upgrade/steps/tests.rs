//! Steps done in part and undone, cut short anywhere.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::tree::manifest::Manifest;

/// A tree with a step of each kind, and how many there are.
fn fixture() -> (tempfile::TempDir, UndoLog, Vec<Option<Entry>>) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("etc/gone")).unwrap();
    for file in ["changed", "gone/file", "mode", "turned"] {
        fs::write(tree.join("etc").join(file), format!("old {file}")).unwrap();
    }
    let work = Work::of(&tree, &tree);
    work.make().unwrap();
    for (slot, content) in [(3, "new changed"), (6, "new added")] {
        fs::write(work.slots().join(slot.to_string()), content).unwrap();
    }
    fs::create_dir(work.slots().join("4")).unwrap();
    fs::create_dir(work.slots().join("5")).unwrap();
    let before = Manifest::scan(&tree, &[Path::new("/etc")]).unwrap();
    let entry = |path: &str| before.get(Path::new(path)).cloned();
    let inode = |slot: u32| {
        let slots = Root::new(&work.slots()).unwrap();
        slots
            .plain_object(&slot_path(slot))
            .unwrap()
            .inode()
            .unwrap()
    };
    let replace = |path: &str, slot| Step::Replace {
        path: path.into(),
        slot,
        inode: inode(slot),
    };
    let old = Attributes::from(&entry("/etc/mode").unwrap());
    let steps = vec![
        Step::Remove {
            path: "/etc/gone/file".into(),
            slot: 1,
        },
        Step::Remove {
            path: "/etc/gone".into(),
            slot: 2,
        },
        replace("/etc/changed", 3),
        replace("/etc/turned", 4),
        Step::Add {
            path: "/etc/new".into(),
            slot: 5,
        },
        Step::Add {
            path: "/etc/new/added".into(),
            slot: 6,
        },
        Step::Attributes {
            path: "/etc/mode".into(),
            old,
            new: Attributes { mode: 0o600, ..old },
        },
    ];
    let mut gone = entry("/etc/gone");
    gone.as_mut().unwrap().kind = Kind::Directory;
    let expected = vec![
        entry("/etc/gone/file"),
        gone,
        entry("/etc/changed"),
        entry("/etc/turned"),
        None,
        None,
        entry("/etc/mode"),
    ];
    let journal = UndoLog {
        tree,
        image: None,
        steps,
        saved: vec![],
        domain: None,
        restarting: false,
    };
    (dir, journal, expected)
}

fn scan(journal: &UndoLog) -> Manifest {
    Manifest::scan(&journal.tree, &[Path::new("/etc")]).unwrap()
}

fn roots(journal: &UndoLog) -> (Root, Root) {
    let slots = Work::of(&journal.tree, &journal.tree).slots();
    (
        Root::new(&journal.tree).unwrap(),
        Root::new(&slots).unwrap(),
    )
}

#[test]
fn steps_cut_short_anywhere_are_undone_as_often_as_one_likes() {
    let count = fixture().1.steps.len();
    for done in 0..=count {
        for undone in 0..=done {
            let (_dir, journal, expected) = fixture();
            let before = scan(&journal);
            let (tree, slots) = roots(&journal);
            for (step, expected) in journal.steps.iter().zip(&expected).take(done) {
                step.apply(&tree, &slots, expected.as_ref()).unwrap();
            }
            // An undoing that is cut short as well.
            for step in journal.steps.iter().rev().take(undone) {
                step.undo(&tree, &slots).unwrap();
            }
            journal.undo(&journal.tree).unwrap();
            assert_eq!(scan(&journal), before, "{done} done, {undone} undone");
            let changed = fs::read_to_string(journal.tree.join("etc/changed")).unwrap();
            assert_eq!(changed, "old changed");
        }
    }
}

#[test]
fn what_changes_meanwhile_is_noticed_and_links_are_not_followed() {
    let (dir, journal, expected) = fixture();
    let (tree, slots) = roots(&journal);
    let apply = |index: usize| journal.steps[index].apply(&tree, &slots, expected[index].as_ref());
    fs::write(journal.tree.join("etc/changed"), "by the sandbox").unwrap();
    let message = apply(2).unwrap_err().to_string();
    assert!(message.contains("/etc/changed"), "{message}");
    fs::set_permissions(
        journal.tree.join("etc/mode"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    assert!(apply(6).is_err());
    // Its directory leads out of the tree by now.
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, journal.tree.join("etc/new")).unwrap();
    assert!(apply(5).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fs::remove_file(journal.tree.join("etc/new")).unwrap();
    journal.undo(&journal.tree).unwrap();
    let changed = fs::read_to_string(journal.tree.join("etc/changed")).unwrap();
    assert_eq!(changed, "by the sandbox");
}

#[test]
fn files_of_the_host_are_as_before() {
    let (dir, mut journal, _) = fixture();
    let records = dir.path().join("records");
    fs::create_dir(&records).unwrap();
    let (old, new) = (dir.path().join("old.toml"), dir.path().join("new.toml"));
    fs::write(&old, "old").unwrap();
    journal.keep(&records, old.clone()).unwrap();
    journal.keep(&records, new.clone()).unwrap();
    fs::write(&old, "other").unwrap();
    fs::write(&new, "other").unwrap();
    journal.undo(&journal.tree).unwrap();
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert!(!new.exists());
}
