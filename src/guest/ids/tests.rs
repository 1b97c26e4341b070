use super::*;

fn registry(root: &Path) -> Registry {
    Registry {
        directories: vec![root.join("services"), root.join("run")],
        etc: root.join("etc"),
        lock: root.join("lock"),
    }
}

fn sandbox(root: &Path, dir: &str) -> PathBuf {
    let dir = root.join(dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn every_sandbox_has_ids_of_its_own_and_keeps_them() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let registry = registry(root);
    let (one, two) = (sandbox(root, "services/one"), sandbox(root, "run/two"));
    let uuid = Uuid::from_u128(7);
    let first = registry.claim(&one, uuid, None).unwrap();
    let second = registry.claim(&two, uuid, None).unwrap();
    assert!(!first.overlaps(second));
    assert_eq!(
        registry.claim(&one, Uuid::from_u128(9), None).unwrap(),
        first
    );
    let error = registry
        .claim(&two, uuid, Some(first))
        .unwrap_err()
        .to_string();
    assert!(error.contains("services/one"), "{error}");
    fs::remove_dir_all(&one).unwrap();
    assert_eq!(registry.claim(&two, uuid, Some(first)).unwrap(), first);
}

#[test]
fn ids_come_from_subuid_and_subgid() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let registry = registry(root);
    let etc = sandbox(root, "etc");
    let text = "alice:331072:65536\nroot:200000:131072\nlibvirt-sandbox:9:5\nbad:line\n";
    fs::write(etc.join("subuid"), text).unwrap();
    fs::write(etc.join("subgid"), "root:200000:131072\nbob:200000:10\n").unwrap();
    let claim = |name: &str| registry.claim(&sandbox(root, name), Uuid::nil(), None);
    // In the first half are groups of somebody else's.
    assert_eq!(claim("run/a").unwrap().to_string(), "265536:65536");
    let error = claim("run/b").unwrap_err().to_string();
    assert!(error.contains("etc/subuid"), "{error}");
}

#[test]
fn read_only_shares_need_no_mapping() {
    let filesystem = |target: &str, read_only| Filesystem {
        source: "/x".into(),
        target: target.into(),
        read_only,
    };
    for (target, read_only, owned) in [
        ("/", false, false),
        ("/host", true, true),
        ("/host/usr", true, true),
        ("/host/usr/share/x", true, false),
        ("/host/mnt", true, false),
        ("/private", false, true),
        ("/mnt/0", false, true),
        ("/mnt/1", true, false),
    ] {
        assert_eq!(is_owned(&filesystem(target, read_only)), owned, "{target}");
    }
}

/// Decides with a guest-init that is this script, in a directory that had ids or not.
fn decided(idmap: &str, script: &str, had: Option<&str>) -> (Result<Option<IdMap>>, bool) {
    let root = tempfile::tempdir().unwrap();
    let registry = registry(root.path());
    let dir = sandbox(root.path(), "services/one");
    if let Some(had) = had {
        fs::write(dir.join(NOTE), had).unwrap();
    }
    let init = root.path().join("init");
    // Written by another process: one that this one forks meanwhile would keep it open, and nobody could run it (ETXTBSY).
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod 755 \"$2\"",
            "sh",
            script,
        ])
        .arg(&init)
        .status();
    assert!(written.unwrap().success());
    let claim = |wanted| registry.claim(&dir, Uuid::nil(), wanted);
    let decided = decide(idmap.parse().unwrap(), &[], &init, &dir, claim);
    (decided, dir.join(NOTE).exists())
}

#[test]
fn ids_of_the_host_are_kept_only_if_it_cannot_map_them() {
    let unsupported = format!("echo no maps >&2; exit {IDS_UNSUPPORTED}");
    let (decided_ids, is_noted) = decided("auto", &unsupported, None);
    assert_eq!((decided_ids.unwrap(), is_noted), (None, false));
    let (decided_ids, is_noted) = decided("auto", "exit 0", None);
    assert!(decided_ids.unwrap().is_some() && is_noted);
    let passing = [
        "exit 1",
        "exit 127",
        "kill -9 $$",
        "echo 'cannot show owners: EINVAL' >&2; exit 2",
    ];
    for script in passing {
        let (decided_ids, _) = decided("auto", script, None);
        let error = decided_ids.unwrap_err().to_string();
        assert!(
            error.contains("giving the sandbox the ids"),
            "{script}: {error}"
        );
    }
}

#[test]
fn ids_that_a_sandbox_had_or_asks_for_are_kept_or_refused() {
    let unsupported = format!("echo no maps >&2; exit {IDS_UNSUPPORTED}");
    let (decided_ids, is_noted) = decided("auto", &unsupported, Some("1000013824:65536\n"));
    let error = decided_ids.unwrap_err().to_string();
    assert!(
        error.contains("that it had") && error.contains("no maps"),
        "{error}"
    );
    assert!(is_noted);
    let (decided_ids, _) = decided("5000:70000", &unsupported, None);
    let error = decided_ids.unwrap_err().to_string();
    assert!(error.contains("--idmap no"), "{error}");
    let (decided_ids, _) = decided("no", "exit 1", Some("1000013824:65536\n"));
    assert_eq!(decided_ids.unwrap(), None);
}

#[test]
fn a_missing_guest_init_is_an_error() {
    let registry = registry(Path::new("/nonexistent"));
    let claim = |_| registry.preview(Path::new("/nonexistent/x"), Uuid::nil(), None);
    let init = Path::new("/nonexistent/init");
    let error = decide(Idmap::Auto, &[], init, Path::new("/nonexistent/x"), claim);
    assert!(error.unwrap_err().to_string().contains("/nonexistent/init"));
}
