//! Writes to the host's `/usr`, which QEMU shares with a machine and refuses to write. Root inside controls the guest's kernel.

use std::os::unix::fs::chown;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::{FsFlags, statvfs};
use test_harness::prey::IN_USR;

use super::shares::handle;
use super::*;

/// Returns the attempts against `/usr`.
pub fn attempts() -> Vec<Attempt> {
    vec![
        (
            "make a file in /usr" as _,
            All,
            (|_| usr(|dir| File::create_new(dir.join("new")).map(drop))) as AttemptFn,
        ),
        ("open one to write to it", All, |_| {
            usr(|dir| opened(dir).map(drop))
        }),
        ("write to it", All, |_| {
            usr(|dir| opened(dir)?.write_all(b"mine"))
        }),
        ("empty it", All, |_| {
            usr(|dir| Ok(nix::unistd::truncate(&dir.join("file"), 0)?))
        }),
        ("make it a program that makes root of all", All, |_| {
            usr(|dir| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o6777);
                fs::set_permissions(dir.join("file"), mode)
            })
        }),
        ("give it away", All, |_| {
            usr(|dir| chown(dir.join("file"), Some(1), Some(1)))
        }),
        ("make it older", All, |_| {
            usr(|dir| File::open(dir.join("file"))?.set_modified(std::time::UNIX_EPOCH))
        }),
        ("set an attribute of it", All, |_| {
            usr(|dir| sets(&dir.join("file"), "user.mine"))
        }),
        ("give it capabilities", All, |_| {
            usr(|dir| sets(&dir.join("file"), "security.capability"))
        }),
        ("remove it", All, |_| {
            usr(|dir| fs::remove_file(dir.join("file")))
        }),
        ("rename it", All, |_| {
            usr(|dir| fs::rename(dir.join("file"), dir.join("new")))
        }),
        ("put another one in its place", All, |_| {
            usr(|dir| fs::rename(dir.join("other"), dir.join("file")))
        }),
        ("make a directory there", All, |_| {
            usr(|dir| fs::create_dir(dir.join("new")))
        }),
        ("remove one", All, |_| {
            usr(|dir| fs::remove_dir(dir.join("empty")))
        }),
        ("make a device there", All, |_| {
            usr(|dir| {
                Ok(mknod(
                    &dir.join("new"),
                    SFlag::S_IFCHR,
                    Mode::S_IRWXU,
                    makedev(1, 3),
                )?)
            })
        }),
        ("make a link there", All, |_| {
            usr(|dir| fs::hard_link(dir.join("file"), dir.join("new")))
        }),
        ("make a symbolic one", All, |_| {
            usr(|dir| symlink("/", dir.join("new")))
        }),
        ("open one there by handle", All, |_| {
            by_handle(IN_USR, &[(1, 4), (0x81, 12)])
        }),
    ]
}

/// Remounts `/usr` writable in the guest, then makes the attempt in a directory there: only the host can refuse it.
fn usr(way: fn(&Path) -> std::io::Result<()>) -> Result<String, String> {
    own_mounts()?;
    for flags in [MsFlags::empty(), MsFlags::MS_BIND] {
        remounted(flags, "/usr")?;
    }
    let dir = Path::new(IN_USR);
    match statvfs(dir)
        .map_err(said)?
        .flags()
        .contains(FsFlags::ST_RDONLY)
    {
        true => Err("its own kernel has it read-only still".to_owned()),
        false => way(dir)
            .map(|()| "done".to_owned())
            .map_err(|error| format!("the host: {error}")),
    }
}

fn opened(dir: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(dir.join("file"))
}

fn sets(path: &Path, name: &str) -> std::io::Result<()> {
    // `struct vfs_cap_data`, version 2, with all that may be permitted
    let value = [0x0200_0001_u32, u32::MAX, 0, u32::MAX, 0];
    let (path, name) = (text(&path.to_string_lossy()), text(name));
    let (path, name) = (path.as_ptr() as usize, name.as_ptr() as usize);
    // SAFETY: all addresses are of objects that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_setxattr, path, name, address(&value), 20, 0) };
    Ok(Errno::result(done).map(drop)?)
}

/// Opens inodes of a filesystem by handles with small numbers, of these types and sizes.
fn by_handle(place: &str, kinds: &[(u32, u32)]) -> Result<String, String> {
    for (kind, size) in kinds {
        for number in 0..64 {
            let opened = handle(place, *kind, *size, number);
            match opened {
                Ok(_) => return Ok(format!("opened {number}")),
                Err(error) if number == 63 => return Err(error),
                Err(_) => {}
            }
        }
    }
    Err("none opens".to_owned())
}
