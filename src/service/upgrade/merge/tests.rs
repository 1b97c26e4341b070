//! All combinations of three states of one path, and random trees.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;

fn entry(kind: Kind, mode: u32) -> Entry {
    Entry {
        mode,
        uid: 0,
        gid: 0,
        kind,
    }
}

fn file(content: u8, mode: u32) -> Entry {
    let kind = Kind::File {
        size: 1,
        sha256: [content; 32],
    };
    entry(kind, mode)
}

fn link(target: &str) -> Entry {
    entry(
        Kind::Symlink {
            target: target.into(),
        },
        0o777,
    )
}

fn states() -> Vec<(&'static str, Option<Entry>)> {
    vec![
        ("-", None),
        ("file1", Some(file(1, 0o644))),
        ("file2", Some(file(2, 0o644))),
        ("file1:600", Some(file(1, 0o600))),
        ("link", Some(link("x"))),
        ("dir", Some(entry(Kind::Directory, 0o755))),
    ]
}

fn manifest(entries: &[(&str, Entry)]) -> Manifest {
    let mut manifest = Manifest::default();
    manifest.insert("/etc".into(), entry(Kind::Directory, 0o755));
    for (path, entry) in entries {
        manifest.insert(path.into(), entry.clone());
    }
    manifest
}

/// Applies changes to a sandbox.
fn after(host: &Manifest, sandbox: &Manifest, changes: &[Change]) -> Manifest {
    let mut result = sandbox.clone();
    for change in changes {
        match &change.action {
            Action::Add => {
                result.insert(change.path.clone(), host.get(&change.path).unwrap().clone())
            }
            Action::Replace(entry) | Action::Attributes(entry) => {
                result.insert(change.path.clone(), entry.clone());
            }
            Action::Remove => drop(result.remove(&change.path)),
            Action::Conflict(at) => {
                result.insert(at.clone(), host.get(&change.path).unwrap().clone());
            }
            Action::Keep => {}
        }
    }
    result
}

#[test]
fn all_combinations_of_states_of_one_path_merge() {
    let mut table = String::new();
    for (base_name, base) in states() {
        for (host_name, host) in states() {
            for (own_name, own) in states() {
                let of = |entry: &Option<Entry>| {
                    let entries: Vec<_> = entry.iter().map(|e| ("/etc/x", e.clone())).collect();
                    manifest(&entries)
                };
                let changes = merge(&of(&base), &of(&host), &of(&own));
                let [change] = changes.as_slice() else {
                    assert!(changes.is_empty());
                    continue;
                };
                let result = after(&of(&host), &of(&own), &changes);
                let shown = states()
                    .into_iter()
                    .find(|(_, state)| state.as_ref() == result.get(Path::new("/etc/x")));
                let shown = shown.map_or("file2:600", |(name, _)| name);
                writeln!(
                    table,
                    "{base_name:<9}  {host_name:<9}  {own_name:<9}  {:<8}  {shown:<9}  {}",
                    change.action.as_str(),
                    change.reason
                )
                .unwrap();
            }
        }
    }
    insta::assert_snapshot!(format!(
        "base       host       sandbox    action    result     reason\n{table}"
    ));
}

#[test]
fn mode_owner_and_content_are_merged_separately() {
    let of = |entry: Entry| manifest(&[("/etc/x", entry)]);
    let owned = |uid, gid| Entry {
        uid,
        gid,
        ..file(1, 0o644)
    };
    let result = |base, host, own| {
        let (host, own) = (of(host), of(own));
        let changes = merge(&of(base), &host, &own);
        let after = after(&host, &own, &changes);
        after.get(Path::new("/etc/x")).unwrap().clone()
    };
    // The host changed the content and the sandbox the mode: take both.
    assert_eq!(
        result(file(1, 0o644), file(2, 0o644), file(1, 0o600)),
        file(2, 0o600)
    );
    assert_eq!(
        result(file(1, 0o644), file(1, 0o640), file(2, 0o644)),
        file(2, 0o640)
    );
    assert_eq!(result(owned(0, 0), owned(5, 0), owned(0, 7)), owned(5, 7));
    assert_eq!(result(owned(0, 0), owned(5, 0), owned(6, 0)), owned(6, 0));
}

#[test]
fn a_directory_is_removed_only_when_empty() {
    let dir = || entry(Kind::Directory, 0o755);
    let base = manifest(&[("/etc/d", dir()), ("/etc/d/a", file(1, 0o644))]);
    let gone = manifest(&[]);
    let words = |changes: &[Change]| -> Vec<(PathBuf, &'static str)> {
        changes
            .iter()
            .map(|change| (change.path.clone(), change.action.as_str()))
            .collect()
    };
    assert_eq!(
        words(&merge(&base, &gone, &base)),
        [("/etc/d".into(), "removed"), ("/etc/d/a".into(), "removed")]
    );
    let mut own = base.clone();
    own.insert("/etc/d/own".into(), file(9, 0o644));
    assert_eq!(
        words(&merge(&base, &gone, &own)),
        [("/etc/d".into(), "kept"), ("/etc/d/a".into(), "removed")]
    );
    // The directory became a file on the host.
    let host = manifest(&[("/etc/d", file(1, 0o644))]);
    assert_eq!(
        words(&merge(&base, &host, &base)),
        [("/etc/d".into(), "updated"), ("/etc/d/a".into(), "removed")]
    );
    assert_eq!(
        words(&merge(&base, &host, &own)),
        [
            ("/etc/d".into(), "conflict"),
            ("/etc/d/a".into(), "removed")
        ]
    );
}

#[test]
fn a_directory_of_the_host_goes_beside_a_file_of_the_sandbox() {
    let host = manifest(&[
        ("/etc/d", entry(Kind::Directory, 0o755)),
        ("/etc/d/a", file(1, 0o644)),
    ]);
    let own = manifest(&[("/etc/d", file(3, 0o644))]);
    let result = after(&host, &own, &merge(&manifest(&[]), &host, &own));
    assert_eq!(result.get(Path::new("/etc/d")), Some(&file(3, 0o644)));
    assert_eq!(
        result.get(Path::new("/etc/d.virt-sandbox-new/a")),
        Some(&file(1, 0o644))
    );
    // An existing file with the suffix is not overwritten.
    let mut taken = own.clone();
    taken.insert("/etc/d.virt-sandbox-new".into(), file(4, 0o644));
    let result = after(&host, &taken, &merge(&manifest(&[]), &host, &taken));
    assert_eq!(result, taken);
}

const PATHS: [&str; 8] = [
    "/etc/a",
    "/etc/a/b",
    "/etc/a/b/c",
    "/etc/a/d",
    "/etc/e",
    "/etc/e/f",
    "/etc/g",
    "/etc/h",
];

/// A consistent tree: every parent is a directory.
fn tree() -> impl Strategy<Value = Manifest> {
    proptest::collection::vec(0..7_usize, PATHS.len()).prop_map(|choices| {
        let mut manifest = manifest(&[]);
        for (path, choice) in PATHS.iter().zip(choices) {
            let path = Path::new(path);
            let parent = path.parent().and_then(|parent| manifest.get(parent));
            let is_possible = parent.is_some_and(|parent| parent.kind == Kind::Directory);
            let state = match choice {
                6 => Some(entry(Kind::Directory, 0o700)),
                other => states()[other].1.clone(),
            };
            if let Some(entry) = state.filter(|_| is_possible) {
                manifest.insert(path.to_owned(), entry);
            }
        }
        manifest
    })
}

fn is_sound(tree: &Manifest) -> bool {
    tree.iter().all(|(path, _)| {
        path == Path::new("/etc")
            || tree
                .get(path.parent().unwrap())
                .is_some_and(|parent| parent.kind == Kind::Directory)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changes_of_the_sandbox_stay(base in tree(), host in tree(), own in tree()) {
        let changes = merge(&base, &host, &own);
        let result = after(&host, &own, &changes);
        prop_assert!(is_sound(&result), "{result}");
        for path in PATHS.map(Path::new) {
            let (before, now, then) = (base.get(path), own.get(path), result.get(path));
            if before == now {
                continue;
            }
            match (before, now) {
                (_, None) => prop_assert_eq!(then, None),
                (None, Some(_)) => prop_assert_eq!(then, now),
                (Some(before), Some(now)) => {
                    let then = then.unwrap();
                    if before.kind != now.kind {
                        prop_assert_eq!(&then.kind, &now.kind);
                    }
                    if before.mode != now.mode {
                        prop_assert_eq!(then.mode, now.mode);
                    }
                }
            }
        }
    }

    #[test]
    fn an_unchanged_host_changes_nothing(base in tree(), own in tree()) {
        prop_assert_eq!(merge(&base, &base, &own), vec![]);
    }

    #[test]
    fn an_unchanged_sandbox_becomes_like_the_host(base in tree(), host in tree()) {
        prop_assert_eq!(after(&host, &base, &merge(&base, &host, &base)), host);
    }

    #[test]
    fn a_second_merge_does_nothing(base in tree(), host in tree(), own in tree()) {
        let result = after(&host, &own, &merge(&base, &host, &own));
        prop_assert_eq!(merge(&host, &host, &result), vec![]);
    }
}
