use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        Just(b'\t'),
        Just(b'\n'),
        Just(b'\\'),
        Just(b'x'),
        Just(b'/'),
        Just(b'.'),
        1u8..=255,
    ];
    prop_oneof![
        proptest::collection::vec(byte, 1..12),
        "\\PC{1,8}".prop_map(String::into_bytes),
    ]
}

fn path() -> impl Strategy<Value = PathBuf> {
    name().prop_map(|bytes| OsString::from_vec(bytes).into())
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any::<u64>(), any::<[u8; 32]>()).prop_map(|(size, sha256)| Kind::File { size, sha256 }),
        Just(Kind::Directory),
        Just(Kind::Fifo),
        path().prop_map(|target| Kind::Symlink { target }),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let entry =
        (0..=0o7777u32, any::<u32>(), any::<u32>(), kind()).prop_map(|(mode, uid, gid, kind)| {
            Entry {
                mode,
                uid,
                gid,
                kind,
            }
        });
    let entry = (path().prop_map(|path| Path::new("/").join(path)), entry);
    proptest::collection::vec(entry, 0..8).prop_map(|entries| Manifest {
        entries: entries.into_iter().collect(),
    })
}

proptest! {
    #[test]
    fn text_and_value_are_inverse(manifest in manifest()) {
        let text = manifest.to_string();
        prop_assert_eq!(text.lines().count(), manifest.len() + 1);
        let parsed: Manifest = text.parse().unwrap();
        prop_assert_eq!(parsed.to_string(), text);
        prop_assert_eq!(parsed, manifest);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in ".*", lines in "(/[a-c\\\\x0\t]{0,6}(\t[a-f0-9]{0,4}){0,7}\n){0,3}") {
        let _ = text.parse::<Manifest>();
        let _ = format!("{HEADER}\n{lines}").parse::<Manifest>();
    }

    #[test]
    fn diff_is_empty_only_between_equals(a in manifest(), b in manifest()) {
        prop_assert!(a.diff(&a).is_empty());
        prop_assert_eq!(a.diff(&b).is_empty(), a == b);
        prop_assert_eq!(a.diff(&b).len(), b.diff(&a).len());
    }
}

#[test]
fn the_format_is_stable() {
    let entry = |mode, kind| Entry {
        mode,
        uid: 0,
        gid: 42,
        kind,
    };
    let mut manifest = Manifest::default();
    let sha256 = [0xab; 32];
    manifest.insert(
        "/etc/b c".into(),
        entry(0o640, Kind::File { size: 3, sha256 }),
    );
    manifest.insert("/etc".into(), entry(0o755, Kind::Directory));
    let target = PathBuf::from("../tab\there");
    manifest.insert("/etc/é\n".into(), entry(0o777, Kind::Symlink { target }));
    manifest.insert("/etc/f".into(), entry(0o4600, Kind::Fifo));
    let hash = "ab".repeat(32);
    let expected = format!(
        "# virt-sandbox manifest 1\n\
         /etc\tdir\t0755\t0\t42\n\
         /etc/b c\tfile\t0640\t0\t42\t3\t{hash}\n\
         /etc/f\tfifo\t4600\t0\t42\n\
         /etc/é\\x0a\tsymlink\t0777\t0\t42\t../tab\\x09here\n"
    );
    assert_eq!(manifest.to_string(), expected);
}

#[test]
fn what_is_not_a_manifest_is_refused_with_its_line() {
    let hash = "0".repeat(64);
    let cases = [
        ("/a\tdir\t0755\t0", "columns are missing"),
        (
            "/a\tdir\t0755\t0\t0\tx",
            "the kind is unknown or its columns are wrong",
        ),
        (
            "/a\tsocket\t0755\t0\t0",
            "the kind is unknown or its columns are wrong",
        ),
        (
            "/a\tdir\t0788\t0\t0",
            "the mode is not an octal number up to 7777",
        ),
        (
            "/a\tdir\t17777\t0\t0",
            "the mode is not an octal number up to 7777",
        ),
        ("/a\tdir\t0755\t-1\t0", "the uid is no number"),
        (
            "a\tdir\t0755\t0\t0",
            "the path is not absolute or has a bad escape",
        ),
        (
            "/a\\x+1\tdir\t0755\t0\t0",
            "the path is not absolute or has a bad escape",
        ),
        (
            "/a\\xé\tdir\t0755\t0\t0",
            "the path is not absolute or has a bad escape",
        ),
        (
            "/a\tfile\t0755\t0\t0\t1\tabc",
            "the hash is not 64 hex digits",
        ),
        (
            &format!("/a\tfile\t0755\t0\t0\tx\t{hash}"),
            "the size is no number",
        ),
        ("/first\tdir\t0755\t0\t0", "the path is there twice"),
    ];
    for (line, what) in cases {
        let text = format!("{HEADER}\n/first\tdir\t0755\t0\t0\n{line}\n");
        let error = text.parse::<Manifest>().unwrap_err();
        assert_eq!(error, ParseError::Line { line: 3, what }, "{line}");
    }
    assert_eq!("".parse::<Manifest>(), Err(ParseError::Header));
    let cut = format!("{HEADER}\n/first\tdir\t0755\t0\t0");
    let what = "it is cut off";
    assert_eq!(
        cut.parse::<Manifest>(),
        Err(ParseError::Line { line: 2, what })
    );
}

#[test]
fn scan_and_diff_of_a_real_tree() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("etc/sub")).unwrap();
    for (path, content) in [
        ("etc/same", "1"),
        ("etc/edited", "1"),
        ("etc/sub/gone", "1"),
        ("etc/mode", "1"),
    ] {
        fs::write(at(path), content).unwrap();
    }
    symlink("/etc/same", at("etc/link")).unwrap();
    nix::unistd::mkfifo(&at("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("etc/socket")).unwrap();
    fs::create_dir(at("var")).unwrap();

    let below = [Path::new("/etc"), Path::new("no/such")];
    let scan = || Manifest::scan(dir.path(), &below).unwrap();
    let before = scan();
    let paths: Vec<_> = before
        .iter()
        .map(|(path, _)| path.to_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "/etc",
            "/etc/edited",
            "/etc/fifo",
            "/etc/link",
            "/etc/mode",
            "/etc/same",
            "/etc/sub",
            "/etc/sub/gone"
        ]
    );
    let same = before.get(Path::new("/etc/same")).unwrap();
    let Kind::File { size, sha256 } = same.kind else {
        panic!("{same:?}");
    };
    assert_eq!((size, sha256), (1, Sha256::digest("1").into()));

    fs::write(at("etc/edited"), "2").unwrap();
    fs::remove_file(at("etc/sub/gone")).unwrap();
    fs::write(at("etc/new"), "").unwrap();
    fs::set_permissions(at("etc/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(at("etc/link")).unwrap();
    symlink("/etc/other", at("etc/link")).unwrap();
    let expected = [
        Change::Content("/etc/edited".into()),
        Change::Content("/etc/link".into()),
        Change::Attributes("/etc/mode".into()),
        Change::Added("/etc/new".into()),
        Change::Removed("/etc/sub/gone".into()),
    ];
    assert_eq!(before.diff(&scan()), expected);
    assert_eq!(before.to_string().parse::<Manifest>().unwrap(), before);
}
