use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// Builds a host on which others may write to the directory `state`, with a secret beside it.
fn host() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path();
    for made in ["var/lib/state", "var/lib/own/below", "srv/big", "root"] {
        fs::create_dir_all(top.join(made)).unwrap();
        fs::write(top.join(made).join("file"), made).unwrap();
    }
    for made in ["", "var", "var/lib", "var/lib/own", "srv", "srv/big"] {
        fs::set_permissions(top.join(made), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(top.join("var/lib/state"), fs::Permissions::from_mode(0o777)).unwrap();
    let root = Root::of_host(top).unwrap();
    (dir, root)
}

fn canonical(root: &Root, path: &str) -> Result<PathBuf> {
    root.canonical(Path::new(path))
}

#[test]
fn links_of_root_are_followed() {
    let (dir, root) = host();
    let lib = dir.path().join("var/lib");
    symlink("../../srv/big", lib.join("relative")).unwrap();
    symlink("/srv/big", lib.join("absolute")).unwrap();
    symlink("absolute/../big", lib.join("twice")).unwrap();
    symlink("../../../../../srv", lib.join("above")).unwrap();
    for link in ["relative", "absolute", "twice", "above/big"] {
        let path = format!("/var/lib/{link}/file");
        assert_eq!(canonical(&root, &path).unwrap(), Path::new("/srv/big/file"));
        let object = root.object(Path::new(&path)).unwrap();
        let text = std::io::read_to_string(object.open().unwrap()).unwrap();
        assert_eq!(text, "srv/big", "{link}");
    }
    symlink("loop", lib.join("loop")).unwrap();
    symlink("/none", lib.join("dangling")).unwrap();
    for link in [
        "/var/lib/loop/x",
        "/var/lib/dangling/x",
        "/var/lib/own/file/x",
    ] {
        assert!(canonical(&root, link).is_err(), "{link}");
    }
}

#[test]
fn links_that_others_can_have_made_are_not_followed() {
    let (dir, root) = host();
    let state = dir.path().join("var/lib/state");
    fs::create_dir_all(state.join("of-root/inside")).unwrap();
    fs::set_permissions(state.join("of-root"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/root", state.join("link")).unwrap();
    // The link is root's, but somebody else controls the directories around it.
    symlink("../../link", state.join("of-root/inside/link")).unwrap();
    symlink("state/link", dir.path().join("var/lib/through")).unwrap();
    for link in ["state/link", "state/of-root/inside/link", "through"] {
        let path = format!("/var/lib/{link}/file");
        let error = root.object(Path::new(&path)).unwrap_err();
        assert!(
            matches!(error, RootError::Untrusted { .. }),
            "{link}: {error}"
        );
        assert!(canonical(&root, &path).is_err(), "{link}");
    }
    let link = root.object(Path::new("/var/lib/state/link")).unwrap();
    assert!(link.metadata().unwrap().is_symlink());
    let walked: Vec<PathBuf> = root
        .walk(Path::new("/var/lib/state"), |path| path.ends_with("file"))
        .map(|found| found.unwrap().path)
        .collect();
    let expected = [
        "",
        "link",
        "of-root",
        "of-root/inside",
        "of-root/inside/link",
    ];
    let top = Path::new("/var/lib/state");
    assert_eq!(walked, expected.map(|path| top.join(path)));
}

#[test]
fn the_owner_of_a_directory_decides_as_well_as_its_mode() {
    let metadata = |path: &str| fs::metadata(path).unwrap();
    assert!(is_of_root(&metadata("/usr")) && !is_of_root(&metadata("/tmp")));
    if !geteuid().is_root() {
        eprintln!("skipped: the_owner_of_a_directory_decides_as_well_as_its_mode: not root");
        return;
    }
    let (dir, root) = host();
    let own = dir.path().join("var/lib/own");
    symlink("/root", own.join("link")).unwrap();
    let path = Path::new("/var/lib/own/link/file");
    assert_eq!(root.canonical(path).unwrap(), Path::new("/root/file"));
    std::os::unix::fs::chown(&own, Some(65534), None).unwrap();
    assert!(root.canonical(path).is_err());
    std::os::unix::fs::chown(&own, Some(0), Some(65534)).unwrap();
    assert!(root.canonical(path).is_ok());
    fs::set_permissions(&own, fs::Permissions::from_mode(0o775)).unwrap();
    assert!(root.canonical(path).is_err());
    std::os::unix::fs::chown(&own, Some(0), Some(0)).unwrap();
    assert!(root.canonical(path).is_ok());
}

#[test]
fn another_name_of_anothers_file_is_told() {
    if !geteuid().is_root() {
        eprintln!("skipped: another_name_of_anothers_file_is_told: not root");
        return;
    }
    let (dir, root) = host();
    let state = dir.path().join("var/lib/state");
    std::os::unix::fs::chown(&state, Some(65534), None).unwrap();
    fs::hard_link(dir.path().join("root/file"), state.join("stolen")).unwrap();
    fs::write(state.join("own"), "").unwrap();
    std::os::unix::fs::chown(state.join("own"), Some(65534), None).unwrap();
    fs::hard_link(state.join("own"), state.join("again")).unwrap();
    let named = |path: &str| root.check_hard_links(Path::new(path));
    let error = named("/var/lib/state/stolen").unwrap_err();
    assert!(matches!(error, RootError::ForeignName { .. }), "{error}");
    assert!(named("/var/lib/state/again").is_ok() && named("/root/file").is_ok());
}
