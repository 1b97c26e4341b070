use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tar::{EntryType, Header};

use super::*;
use crate::sys::root::Root;

fn archive(tree: &Path, paths: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let root = Root::new(tree).unwrap();
    let mut writer = Writer::new(&mut bytes, &|| false);
    writer.document("about", b"text").unwrap();
    for path in paths {
        let path = Path::new(path);
        let found = root.walk(path, |_| false).next().unwrap().unwrap();
        let name = Path::new("tree").join(path);
        assert_eq!(writer.object(&root, &found, &name).unwrap(), None);
    }
    writer.finish().unwrap();
    bytes
}

fn unpack(bytes: &[u8], to: &Path) -> Result<usize> {
    let root = Root::new(to).unwrap();
    let mut reader = Reader::new(bytes);
    let mut extractor = Extractor::new(&root);
    let mut count = 0;
    while let Some(member) = reader.next_member()? {
        count += 1;
        let Ok(path) = member.name.strip_prefix("tree").map(Path::to_owned) else {
            continue;
        };
        let link = match &member.kind {
            Kind::Link(link) => Some(link.strip_prefix("tree").unwrap_or(link).to_owned()),
            Kind::File { .. } | Kind::Directory | Kind::Symlink(_) | Kind::Fifo => None,
        };
        extractor.unpack(&mut reader, member, &path, link.as_deref(), &|| false)?;
    }
    extractor.finish()?;
    Ok(count)
}

#[test]
fn a_tree_is_unpacked_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("d")).unwrap();
    fs::create_dir(&to).unwrap();
    let long = format!("d/{}", "n".repeat(200));
    fs::write(from.join("d/a"), "content").unwrap();
    fs::write(from.join(&long), "").unwrap();
    fs::hard_link(from.join("d/a"), from.join("d/b")).unwrap();
    symlink("x".repeat(150), from.join("d/link")).unwrap();
    let hole = File::create(from.join("d/hole")).unwrap();
    hole.write_all_at(b"end", 1 << 20).unwrap();
    hole.set_len(3 << 20).unwrap();
    fs::set_permissions(from.join("d/a"), fs::Permissions::from_mode(0o4751)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::open(from.join("d"))
        .unwrap()
        .set_modified(then)
        .unwrap();
    let value = b"a\n7 b=c\n\0".as_slice();
    let has_xattrs = xattr::set(from.join("d/a"), OsStr::new("user.x"), value).is_ok();

    let bytes = archive(&from, &["d", "d/a", "d/b", "d/hole", "d/link", &long]);
    assert!(bytes.len() < 1 << 16, "{}", bytes.len());
    assert_eq!(unpack(&bytes, &to).unwrap(), 7);
    let meta = |path: &str| to.join(path).symlink_metadata().unwrap();
    assert_eq!(fs::read(to.join("d/a")).unwrap(), b"content");
    assert_eq!(meta("d/a").mode() & 0o7777, 0o4751);
    assert_eq!(meta("d/a").ino(), meta("d/b").ino());
    assert_eq!(meta("d").modified().unwrap(), then);
    assert_eq!(meta(&long).len(), 0);
    assert_eq!(
        fs::read_link(to.join("d/link")).unwrap().as_os_str().len(),
        150
    );
    assert_eq!(
        fs::read(to.join("d/hole")).unwrap(),
        fs::read(from.join("d/hole")).unwrap()
    );
    assert!(meta("d/hole").blocks() < 1 << 10, "the hole is filled");
    if has_xattrs {
        let read = xattr::get(to.join("d/a"), "user.x").unwrap();
        assert_eq!(read.as_deref(), Some(value));
    }
}

#[test]
fn an_archive_that_is_cut_off_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "x".repeat(2000)).unwrap();
    let bytes = archive(dir.path(), &["a"]);
    for length in [100, 600, 1300, 2100, 3500] {
        let to = tempfile::tempdir().unwrap();
        let error = unpack(&bytes[..length], to.path()).unwrap_err();
        assert!(
            matches!(error, ArchiveError::Truncated),
            "{length}: {error}"
        );
    }
    let to = tempfile::tempdir().unwrap();
    let error = unpack(&[b'x'; 1024], to.path()).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged(_)), "{error}");
}

/// Builds a member that only a hostile or careless program would write.
fn crafted(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(nix::unistd::geteuid().as_raw().into());
    header.set_gid(nix::unistd::getegid().as_raw().into());
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn nothing_leads_out() {
    let file = |name| crafted(EntryType::Regular, name, "", b"evil");
    let link = |name, to| crafted(EntryType::Symlink, name, to, b"");
    let hard = |name, to| crafted(EntryType::Link, name, to, b"");
    let mut pax = Vec::new();
    super::pax::push(&mut pax, OsStr::new("path"), b"tree/../../out/evil");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("..", vec![file("tree/../../out/evil")]),
        ("absolute", vec![file("/tmp/evil")]),
        (
            "a record",
            vec![crafted(EntryType::XHeader, "x", "", &pax), file("tree/a")],
        ),
        (
            "a link on the way",
            vec![link("tree/l", "../out"), file("tree/l/evil")],
        ),
        (
            "a link in the place",
            vec![link("tree/l", "../out/evil"), file("tree/l")],
        ),
        (
            "a directory as a link",
            vec![
                link("tree/l", "../out"),
                crafted(EntryType::Directory, "tree/l", "", b""),
            ],
        ),
        ("a hard link out", vec![hard("tree/h", "../out/here")]),
        (
            "a hard link through a link",
            vec![link("tree/l", "../out"), hard("tree/h", "tree/l/here")],
        ),
        ("twice", vec![file("tree/a"), file("tree/a")]),
        (
            "a device",
            vec![crafted(EntryType::Char, "tree/null", "", b"")],
        ),
        (
            "a block device",
            vec![crafted(EntryType::Block, "tree/sda", "", b"")],
        ),
        (
            "the top",
            vec![crafted(EntryType::Symlink, "tree", "out", b"")],
        ),
        (
            "a sparse file of old",
            vec![crafted(EntryType::GNUSparse, "tree/s", "", b"")],
        ),
    ];
    for (what, members) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (to, out) = (dir.path().join("to"), dir.path().join("out"));
        fs::create_dir(&to).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("here"), "").unwrap();
        let error = unpack(&members.concat(), &to).unwrap_err();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "{what}: {error}");
        assert_eq!(fs::metadata(out.join("here")).unwrap().nlink(), 1, "{what}");
    }
}

#[test]
fn attributes_for_the_kernel_alone_are_not_taken() {
    let mut records = Vec::new();
    for name in [
        "user.a",
        "security.selinux",
        "trusted.overlay.opaque",
        "security.capability",
    ] {
        super::pax::push(&mut records, OsStr::new(&format!("{XATTR}{name}")), b"1");
    }
    let bytes = [
        crafted(EntryType::XHeader, "x", "", &records),
        crafted(EntryType::Regular, "a", "", b""),
    ];
    let bytes = bytes.concat();
    let member = Reader::new(bytes.as_slice())
        .next_member()
        .unwrap()
        .unwrap();
    let taken = format!("{member:?}");
    assert!(
        taken.contains("user.a") && taken.contains("security.capability"),
        "{taken}"
    );
    assert!(
        !taken.contains("selinux") && !taken.contains("trusted"),
        "{taken}"
    );
}
