use super::*;

fn included(layout: Layout, path: &Path) -> Layout {
    included_by(Authority::User, layout, path)
}

fn included_by(authority: Authority, mut layout: Layout, path: &Path) -> Layout {
    let include: Include = format!("/opt/included={}", path.display()).parse().unwrap();
    layout.add_includes(&[include], authority).unwrap();
    layout
}

#[test]
fn an_include_shares_nothing_beside_it_with_a_machine() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (source, kind, place) in [
        (file.as_path(), ShareKind::File, "/include/0/file"),
        (dir.path(), ShareKind::Directory, "/include/0"),
    ] {
        let layout = included(Layout::new(SingleFiles::InDirectory), source);
        let share = Share {
            source: source.to_owned(),
            staged: "/include/0".into(),
            read_only: true,
            kind,
        };
        assert_eq!(layout.shares, [share]);
        assert_eq!(layout.includes[0].source, Path::new(place));
    }
    // A part of the root is not shared once more.
    let mut whole = Layout::new(SingleFiles::InDirectory);
    whole.share_as(ShareKind::Directory, Path::new("/"), Path::new(ROOT), true);
    let layout = included(whole.clone(), &file);
    assert_eq!(layout.shares, whole.shares);
    assert_eq!(
        layout.includes[0].source,
        Path::new(&format!("{ROOT}{}", file.display()))
    );
    // Root's QEMU is a user that may not read everything.
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(dir.path(), 0o755);
    for (mode, source, kind) in [
        (0o644, file.as_path(), None),
        (0o644, dir.path(), None),
        (0o600, file.as_path(), Some(ShareKind::File)),
        (0o600, dir.path(), Some(ShareKind::PrivateDirectory)),
    ] {
        open(&file, mode);
        let layout = included_by(Authority::Root, whole.clone(), source);
        assert_eq!(
            layout.shares.get(1).map(|share| share.kind),
            kind,
            "{mode:o} {source:?}"
        );
    }
}

#[test]
fn a_volatile_or_read_only_root_is_shared_read_only() {
    let dir = tempfile::tempdir().unwrap();
    for (options, volatile, expected, shared_read_only) in [
        ("", false, Access::Writable, false),
        (",ro", false, Access::ReadOnly, true),
        ("", true, Access::Volatile, true),
        (",ro", true, Access::Volatile, true),
    ] {
        let mount = format!("host-bind:/={}{options}", dir.path().display());
        let mut layout = Layout::new(SingleFiles::Staged);
        layout
            .mount_root(&mount.parse().unwrap(), volatile)
            .unwrap();
        assert!(matches!(layout.root, Root::Tree { access, .. } if access == expected));
        assert_eq!(
            layout.shares[0].read_only, shared_read_only,
            "{mount} {volatile}"
        );
    }
}
