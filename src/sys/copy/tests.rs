use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::Uid;

/// Source and destination roots.
struct Fixture {
    dir: tempfile::TempDir,
    source: Root,
    destination: Root,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let root = |name: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        Root::new(&dir.path().join(name)).unwrap()
    };
    let (source, destination) = (root("src"), root("dst"));
    Fixture {
        dir,
        source,
        destination,
    }
}

impl Fixture {
    fn src(&self, path: &str) -> PathBuf {
        self.dir.path().join("src").join(path)
    }
    fn dst(&self, path: &str) -> PathBuf {
        self.dir.path().join("dst").join(path)
    }
    fn copier(&self, existing: Existing) -> Copier<'_> {
        Copier::new(&self.source, &self.destination, existing)
    }
    fn copy_one(&self, name: &str, existing: Existing) -> Result<Copied> {
        let mut copier = self.copier(existing);
        let copied = copier.copy_object(Path::new(name), Path::new(name))?;
        copier.finish()?;
        Ok(copied)
    }
    fn copy_all(&self) -> Result<Report> {
        let mut copier = self.copier(Existing::Refuse);
        for name in self.source.resolve(Path::new("/"))?.names()? {
            copy_tree(&mut copier, Path::new(&name), Path::new(&name))?;
        }
        copier.finish()
    }
}

/// Copies `from` and everything below it.
fn copy_tree(copier: &mut Copier<'_>, from: &Path, to: &Path) -> Result<()> {
    if copier.copy_object(from, to)? == Copied::Directory {
        for name in copier.source.object(from)?.names()? {
            copy_tree(copier, &from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

fn is_root(test: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    let ran = Command::new(program).args(arguments).arg(path).status();
    let ran = ran.is_ok_and(|status| status.success());
    if !ran {
        eprintln!("skipped: '{program}' is missing or does not work here");
    }
    ran
}

fn set_times(path: &Path, seconds: i64) {
    let (atime, mtime) = (
        TimeSpec::new(seconds, 123_456_789),
        TimeSpec::new(seconds + 1, 987),
    );
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &atime,
        &mtime,
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

/// Returns everything that must be equal on both sides.
fn facts(path: &Path) -> impl PartialEq + std::fmt::Debug + use<> {
    let m = fs::symlink_metadata(path).unwrap();
    let times = (m.atime(), m.atime_nsec(), m.mtime(), m.mtime_nsec());
    let mut attributes: Vec<_> = xattr::list(path)
        .unwrap()
        .map(|name| (name.clone(), xattr::get(path, name).unwrap()))
        .collect();
    attributes.sort();
    (m.mode(), m.uid(), m.gid(), times, m.nlink(), attributes)
}

fn extents(path: &Path) -> Vec<(i64, i64)> {
    use nix::unistd::{Whence, lseek};
    let file = File::open(path).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = lseek(&file, at, Whence::SeekData) {
        at = lseek(&file, start, Whence::SeekHole).unwrap();
        found.push((start, at));
    }
    found
}

#[test]
fn every_kind_keeps_its_attributes() {
    let f = fixture();
    fs::create_dir(f.src("d")).unwrap();
    fs::write(f.src("d/file"), "content").unwrap();
    symlink("/nowhere", f.src("d/link")).unwrap();
    nix::unistd::mkfifo(&f.src("d/fifo"), Mode::S_IRWXU).unwrap();
    xattr::set(f.src("d/file"), "user.note", b"a\0b").unwrap();
    xattr::set(f.src("d"), "user.note", b"").unwrap();
    let privileged = is_root("copying owners");
    for (name, mode) in [("d/file", 0o6751), ("d/fifo", 0o620), ("d", 0o3555)] {
        if privileged {
            chown(f.src(name), Some(1234), Some(4321)).unwrap();
        }
        fs::set_permissions(f.src(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    if privileged {
        std::os::unix::fs::lchown(f.src("d/link"), Some(77), Some(78)).unwrap();
    }
    for (seconds, name) in ["d/file", "d/link", "d/fifo", "d"].iter().enumerate() {
        set_times(&f.src(name), 1_000_000_000 + seconds as i64 * 10);
    }
    let before: Vec<_> = ["d/file", "d/link", "d/fifo", "d"]
        .map(|n| facts(&f.src(n)))
        .into();
    let report = f.copy_all().unwrap();
    assert_eq!((report.objects, report.bytes), (4, 7));
    assert!(report.skipped.is_empty(), "{:?}", report.skipped);
    let after: Vec<_> = ["d/file", "d/link", "d/fifo", "d"]
        .map(|n| facts(&f.dst(n)))
        .into();
    assert_eq!(after, before);
    assert_eq!(fs::read(f.dst("d/file")).unwrap(), b"content");
    assert_eq!(
        fs::read_link(f.dst("d/link")).unwrap(),
        Path::new("/nowhere")
    );
    // Lets unprivileged users remove the temporary directory.
    for dir in [f.src("d"), f.dst("d")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn acls_are_copied_and_inherited_ones_removed() {
    let f = fixture();
    fs::create_dir(f.src("d")).unwrap();
    fs::write(f.src("d/with"), "").unwrap();
    fs::write(f.src("plain"), "").unwrap();
    if !run("setfacl", &["-m", "u:1234:rw,m::rw"], &f.src("d/with"))
        || !run("setfacl", &["-m", "d:u:1234:rwx"], &f.src("d"))
        || !run("setfacl", &["-m", "d:u:99:rwx"], &f.dst(""))
    {
        return;
    }
    let names = ["d", "d/with", "plain"];
    let before = names.map(|n| facts(&f.src(n)));
    f.copy_all().unwrap();
    assert_eq!(names.map(|n| facts(&f.dst(n))), before);
}

#[test]
fn capabilities_survive_and_the_label_does_not() {
    if !is_root("setting file capabilities") {
        return;
    }
    let f = fixture();
    fs::write(f.src("tool"), "x").unwrap();
    chown(f.src("tool"), Some(1), Some(1)).unwrap();
    if !run("setcap", &["cap_net_raw+ep"], &f.src("tool")) {
        return;
    }
    let labelled = xattr::set(f.src("tool"), "security.selinux", b"u:r:t:s0").is_ok();
    f.copy_one("tool", Existing::Refuse).unwrap();
    let value = |path: &Path, name: &str| xattr::get(path, name).unwrap();
    let name = "security.capability";
    assert!(value(&f.src("tool"), name).is_some());
    assert_eq!(value(&f.dst("tool"), name), value(&f.src("tool"), name));
    if labelled {
        assert_ne!(
            value(&f.dst("tool"), "security.selinux").as_deref(),
            Some(b"u:r:t:s0".as_slice())
        );
    }
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::FileExt;
    let cases: [(&str, u64, &[u64]); 5] = [
        ("empty", 0, &[]),
        ("all-hole", 5 << 20, &[]),
        ("middle", 8 << 20, &[4 << 20]),
        ("both-ends", (8 << 20) + 1, &[0, 8 << 20]),
        ("dense", 10_000, &[0, 4096, 8192]),
    ];
    for (name, size, writes) in cases {
        let f = fixture();
        let file = File::create(f.src(name)).unwrap();
        file.set_len(size).unwrap();
        for at in writes {
            let length = (size - at).min(4096) as usize;
            file.write_all_at(&vec![7; length], *at).unwrap();
        }
        file.sync_all().unwrap();
        f.copy_one(name, Existing::Refuse).unwrap();
        assert_eq!(
            fs::read(f.dst(name)).unwrap(),
            fs::read(f.src(name)).unwrap(),
            "{name}"
        );
        File::open(f.dst(name)).unwrap().sync_all().unwrap();
        assert_eq!(extents(&f.dst(name)), extents(&f.src(name)), "{name}");
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        assert!(blocks(&f.dst(name)) <= blocks(&f.src(name)), "{name}");
    }
}

#[test]
fn hard_links_are_tied_again() {
    let f = fixture();
    fs::create_dir(f.src("d")).unwrap();
    fs::write(f.src("a"), "shared").unwrap();
    fs::hard_link(f.src("a"), f.src("d/b")).unwrap();
    fs::hard_link(f.src("a"), f.src("z")).unwrap();
    let report = f.copy_all().unwrap();
    assert_eq!((report.objects, report.bytes), (4, 6));
    let inode = |name: &str| fs::metadata(f.dst(name)).unwrap().ino();
    assert_eq!((inode("a"), inode("a")), (inode("d/b"), inode("z")));
    assert_ne!(inode("a"), fs::metadata(f.src("a")).unwrap().ino());

    // Copied again over an existing copy, hard links stay hard links, and nothing is left over.
    let mut copier = f.copier(Existing::Replace);
    for name in ["a", "z", "z"] {
        copier
            .copy_object(Path::new(name), Path::new(name))
            .unwrap();
    }
    copier.finish().unwrap();
    assert_eq!(inode("a"), inode("z"));
    let names = f
        .destination
        .resolve(Path::new("/"))
        .unwrap()
        .names()
        .unwrap();
    assert_eq!(names, ["a", "d", "z"]);
}

#[test]
fn sockets_devices_and_the_vanished_are_reported() {
    let f = fixture();
    fs::create_dir(f.src("d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(f.src("d/socket")).unwrap();
    let mut expected = vec![("d/socket", Omission::Socket)];
    if is_root("making a device") {
        use nix::sys::stat::{SFlag, makedev, mknod};
        let made = mknod(
            &f.src("d/zero"),
            SFlag::S_IFCHR,
            Mode::S_IRWXU,
            makedev(1, 5),
        )
        .and_then(|()| mknod(&f.src("e"), SFlag::S_IFBLK, Mode::S_IRWXU, makedev(7, 0)));
        match made {
            Ok(()) => expected.extend([
                ("d/zero", Omission::CharDevice),
                ("e", Omission::BlockDevice),
            ]),
            Err(errno) => eprintln!("skipped: making a device: {errno}"),
        }
    }
    let report = f.copy_all().unwrap();
    let found: Vec<_> = report
        .skipped
        .iter()
        .map(|s| (s.path.to_str().unwrap(), s.what.clone()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(report.skipped[0].to_string(), "'d/socket' is a socket");
    assert_eq!(
        f.destination
            .resolve(Path::new("d"))
            .unwrap()
            .names()
            .unwrap()
            .len(),
        0
    );
    let copied = f.copy_one("no/such", Existing::Refuse).unwrap();
    assert_eq!(copied, Copied::Skipped(Omission::Vanished));
}

#[test]
fn what_is_there_is_refused_or_replaced() {
    let f = fixture();
    fs::write(f.dir.path().join("outside"), "outside").unwrap();
    fs::write(f.src("name"), "new").unwrap();
    for link in [false, true] {
        if link {
            fs::remove_file(f.dst("name")).unwrap();
            symlink(f.dir.path().join("outside"), f.dst("name")).unwrap();
        } else {
            fs::write(f.dst("name"), "old").unwrap();
        }
        let error = f.copy_one("name", Existing::Refuse).unwrap_err();
        assert!(matches!(error, CopyError::Exists { .. }), "{error}");
        f.copy_one("name", Existing::Replace).unwrap();
        assert!(fs::symlink_metadata(f.dst("name")).unwrap().is_file());
        assert_eq!(fs::read_to_string(f.dst("name")).unwrap(), "new");
    }
    assert_eq!(
        fs::read_to_string(f.dir.path().join("outside")).unwrap(),
        "outside"
    );
    fs::create_dir(f.src("dir")).unwrap();
    symlink(f.dir.path(), f.dst("dir")).unwrap();
    let error = f.copy_one("dir", Existing::Replace).unwrap_err();
    assert!(matches!(error, CopyError::Exists { .. }), "{error}");
}

#[test]
fn no_symlink_of_the_destination_is_followed() {
    let f = fixture();
    let outside = f.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(f.src("etc/app")).unwrap();
    fs::write(f.src("etc/app/conf"), "x").unwrap();
    fs::create_dir(f.dst("real")).unwrap();
    for target in [outside.as_path(), Path::new("real"), Path::new("/real")] {
        symlink(target, f.dst("etc")).unwrap();
        assert!(f.copy_one("etc/app", Existing::Replace).is_err());
        assert!(f.copy_one("etc", Existing::Replace).is_err());
        fs::remove_file(f.dst("etc")).unwrap();
    }

    // A directory that turns into a symlink during the copy, and before its end.
    let mut copier = f.copier(Existing::Replace);
    for name in ["etc", "etc/app"] {
        copier
            .copy_object(Path::new(name), Path::new(name))
            .unwrap();
    }
    fs::rename(f.dst("etc/app"), f.dst("etc/moved")).unwrap();
    symlink(&outside, f.dst("etc/app")).unwrap();
    let conf = Path::new("etc/app/conf");
    assert!(copier.copy_object(conf, conf).is_err());
    let mode = fs::metadata(&outside).unwrap().permissions().mode();
    assert!(copier.finish().is_err());
    assert_eq!(fs::metadata(&outside).unwrap().permissions().mode(), mode);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn no_link_on_the_way_through_the_source_is_followed() {
    let f = fixture();
    fs::write(f.dir.path().join("secret"), "outside").unwrap();
    fs::create_dir(f.src("d")).unwrap();
    fs::write(f.src("d/secret"), "inside").unwrap();
    symlink(f.dir.path(), f.src("up")).unwrap();
    symlink("/d", f.src("same")).unwrap();
    let mut copier = f.copier(Existing::Refuse);
    for from in ["up/secret", "same/secret"] {
        let error = copier.copy_object(Path::new(from), Path::new("a"));
        let is_link = matches!(error, Err(CopyError::Root(RootError::Link { .. })));
        assert!(is_link, "{from}: {error:?}");
    }
    copier.finish().unwrap();
}

/// Exchanges a directory and a symlink while `copy` runs, and passes it the number of the round.
fn while_exchanged(directory: &Path, link: &Path, copy: impl Fn(u32)) {
    let is_over = AtomicBool::new(false);
    let here = nix::fcntl::AT_FDCWD;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                renameat2(here, directory, here, link, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let copied = std::panic::catch_unwind(AssertUnwindSafe(|| (0..ROUNDS).for_each(copy)));
        is_over.store(true, Ordering::Relaxed);
        copied.unwrap();
    });
}

const ROUNDS: u32 = 150;

#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    let f = fixture();
    let secret = f.dir.path().join("root");
    fs::create_dir(&secret).unwrap();
    fs::create_dir_all(f.src("var/state/d")).unwrap();
    for index in 0..8 {
        fs::write(secret.join(format!("f{index}")), "secret").unwrap();
        fs::write(f.src(&format!("var/state/d/f{index}")), "own").unwrap();
    }
    symlink(&secret, f.src("var/state/link")).unwrap();
    // Any account of the host may write to it.
    fs::set_permissions(f.src("var/state"), fs::Permissions::from_mode(0o777)).unwrap();
    let host = Root::of_host(&f.src("")).unwrap();
    let whole = Root::of_host(Path::new("/")).unwrap();
    let prefix = fs::canonicalize(f.src("")).unwrap();
    let copied = AtomicU64::new(0);
    let copy = |round: u32| {
        let to = f.dst(&round.to_string());
        fs::create_dir(&to).unwrap();
        let destination = Root::new(&to).unwrap();
        // Like a plan, which lists names before the copy.
        for (root, state) in [
            (&host, PathBuf::from("/var/state")),
            (&whole, prefix.join("var/state")),
            (&f.source, PathBuf::from("/var/state")),
        ] {
            let mut copier = Copier::new(root, &destination, Existing::Replace);
            for name in ["", "d", "link"].map(|name| state.join(name)) {
                let to = name.strip_prefix(&state).unwrap();
                for index in 0..8 {
                    let file = format!("f{index}");
                    let _ = copier.copy_object(&name.join(&file), Path::new(&file));
                }
                let walk = root.walk(&name, |_| false).take(50);
                for found in walk.flatten() {
                    let below = found.path.strip_prefix(&name).unwrap();
                    if !to.join(below).as_os_str().is_empty() {
                        let _ = copier.copy_found(&found, &to.join(below));
                    }
                }
            }
            let _ = copier.finish();
        }
        for found in destination.walk(Path::new("/"), |_| false) {
            let found = found.unwrap();
            if found.metadata.is_file() {
                let text = io::read_to_string(found.object.open().unwrap()).unwrap();
                assert_eq!(text, "own", "round {round}: {:?}", found.path);
                copied.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    while_exchanged(&f.src("var/state/d"), &f.src("var/state/link"), copy);
    assert!(
        copied.into_inner() > u64::from(ROUNDS),
        "too little was copied"
    );
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    let f = fixture();
    fs::create_dir_all(f.src("a/b")).unwrap();
    for to in ["/a", "/a/b/c"] {
        let mut copier = Copier::new(&f.source, &f.source, Existing::Refuse);
        let error = copy_tree(&mut copier, Path::new("/a"), Path::new(to)).unwrap_err();
        assert!(matches!(error, CopyError::IntoItself { .. }), "{error}");
    }
}

/// Mounts a filesystem over the destination, visible to this thread only.
fn mounted(kind: &str, options: &str) -> Option<Fixture> {
    let f = fixture();
    let none = None::<&str>;
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| {
            mount(
                none,
                &f.dst(""),
                Some(kind),
                MsFlags::empty(),
                Some(options),
            )
        });
    if let Err(errno) = mounted {
        eprintln!("skipped: mounting {kind}: {errno}");
        return None;
    }
    let destination = Root::new(&f.dst("")).unwrap();
    // The descriptor keeps it; detached, it does not block the removal of the temporary directory.
    umount2(&f.dst(""), MntFlags::MNT_DETACH).unwrap();
    Some(Fixture { destination, ..f })
}

#[test]
fn a_full_disk_has_its_own_error_and_leaves_nothing() {
    let Some(f) = mounted("tmpfs", "size=64k") else {
        return;
    };
    fs::write(f.src("big"), vec![1; 1 << 20]).unwrap();
    let error = f.copy_one("big", Existing::Refuse).unwrap_err();
    assert!(matches!(error, CopyError::Full { .. }), "{error:?}");
    assert!(
        error.to_string().contains("no space or quota left"),
        "{error}"
    );
    assert!(
        f.destination
            .resolve(Path::new("/"))
            .unwrap()
            .names()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn unsupported_attributes_are_reported() {
    let Some(f) = mounted("ramfs", "mode=755") else {
        return;
    };
    fs::write(f.src("a"), "x").unwrap();
    xattr::set(f.src("a"), "user.note", b"x").unwrap();
    let report = f.copy_all().unwrap();
    assert_eq!(report.skipped.len(), 1);
    assert_eq!(
        report.skipped[0].to_string(),
        "'a' lost its attribute user.note"
    );
    let copied = f.destination.open_plain(Path::new("a")).unwrap();
    let read = io::read_to_string(copied).unwrap();
    assert_eq!(read, "x");
}
