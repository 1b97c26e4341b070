//! Confined readers: programs of the host that parse untrusted data.
//!
//! The program gets a read-only root with the host's programs, libraries and the data, namespaces of its own,
//! a user that owns nothing, and no way to gain capabilities. Its streams are pipes to this process.
//! unshare(1) and setpriv(1) of util-linux do their part; between them this program builds the root.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{chdir, close, pivot_root, setsid};

use crate::sys::mount::bind;
use crate::sys::path::below;

/// Subcommand that calls [`exec_reader`].
pub const SUBCOMMAND: &str = "read-confined";

/// User and group id of the reader: the first id above those for containers (systemd's UIDS-GIDS), which
/// nobody has.
const READER: u32 = 1_879_048_192;

/// Mount point of the data in the program's root.
const MOUNT_POINT: &str = "/view";

/// Directories of programs and libraries; each may be a symlink.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// World-readable files of the host for the time zone and the library cache.
const FILES: [&str; 2] = ["etc/localtime", "etc/ld.so.cache"];

/// Environment variables that the reader keeps: locale and terminal.
const ENVIRONMENT: [&str; 8] = [
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_TIME",
    "TZ",
    "SYSTEMD_LOG_LEVEL",
];

/// Memory limit in bytes: journalctl(1) maps half a GiB of files at a time.
const MEMORY: u64 = 4 << 30;

/// Detached mount for a confined program to read.
#[derive(Debug)]
pub struct ConfinedReader {
    mount: OwnedFd,
    reader: u32,
}

impl ConfinedReader {
    /// Maps root's files on `mount` to the reader. A program can be started once.
    ///
    /// If the kernel or the filesystem cannot map them, the reader is root without any capability.
    #[must_use]
    pub fn new(mount: OwnedFd) -> Self {
        let shown = bind::map_root_to(&mount, READER);
        if let Err(error) = &shown {
            log::debug!("what is read keeps its owners: {error}");
        }
        Self {
            mount,
            reader: if shown.is_ok() { READER } else { 0 },
        }
    }

    /// Returns the path in the program's root of a directory on the mount.
    #[must_use]
    pub fn path_inside(directory: &Path) -> PathBuf {
        below(MOUNT_POINT, directory)
    }

    /// Starts the command `words` through `own`, the path of this program. Both outputs are pipes, and
    /// the command ends with this process.
    pub fn start(&self, own: &Path, words: &[&str]) -> io::Result<Child> {
        // A duplicate has no close-on-exec flag (dup(2)).
        let mount = nix::unistd::dup(&self.mount)?;
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(["unshare", "--pid", "--fork", "--kill-child=KILL", "--"])
            .arg(own)
            .args([SUBCOMMAND, &mount.as_raw_fd().to_string()])
            .args([&self.reader.to_string(), "--"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Replaces this process by the command `words`, confined to the mount behind the descriptor `mount`; returns
/// only on failure. The process has to be the first one of a PID namespace.
#[must_use]
pub fn exec_reader(mount: RawFd, reader: u32, words: &[String]) -> io::Error {
    match confine(mount) {
        Ok(()) => {}
        Err(error) => return error,
    }
    let id = reader.to_string();
    let ids = ["--reuid", &id, "--regid", &id, "--clear-groups"];
    let capabilities = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];
    // Otherwise user 0 would regain capabilities on exec (capabilities(7)).
    let roots = [
        "--securebits",
        "+noroot,+noroot_locked,+no_setuid_fixup,+no_setuid_fixup_locked",
    ];
    let mut command = Command::new("setpriv");
    command
        .args(ids)
        .args(capabilities)
        .args(roots.iter().filter(|_| reader == 0))
        .args(["--pdeathsig", "KILL", "--"])
        .args(words)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    for name in ENVIRONMENT {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    std::os::unix::process::CommandExt::exec(&mut command)
}

/// Leaves the host's namespaces and root.
fn confine(view: RawFd) -> io::Result<()> {
    // Detaches from the terminal.
    setsid()?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Any directory will do: the mount namespace is private.
    let root = Path::new("/tmp");
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        none,
        root,
        Some("tmpfs"),
        harmless,
        Some("mode=755,size=4m"),
    )?;
    for name in SYSTEM {
        bind_or_link(&Path::new("/").join(name), &root.join(name))?;
    }
    fs::create_dir(root.join("etc"))?;
    for name in FILES {
        // Missing files are not needed.
        let _ = fs::copy(Path::new("/").join(name), root.join(name));
    }
    for name in ["proc", &MOUNT_POINT[1..]] {
        fs::create_dir(root.join(name))?;
    }
    bind::attach(view, &root.join(&MOUNT_POINT[1..]))?;
    let unseen = harmless | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let proc = |options| {
        mount(
            Some("proc"),
            &root.join("proc"),
            Some("proc"),
            unseen,
            options,
        )
    };
    // Linux 5.8 can restrict proc to processes.
    proc(Some("subset=pid")).or_else(|_| proc(None))?;
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    let remount = MsFlags::MS_REMOUNT | harmless | MsFlags::MS_RDONLY;
    mount(none, "/", none, remount, none)?;
    for (limit, most) in [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
    ] {
        let most = most.min(getrlimit(limit)?.1);
        setrlimit(limit, most, most)?;
    }
    close_all()
}

/// Binds a directory of the host read-only, or copies the symlink.
fn bind_or_link(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(metadata) = from.symlink_metadata() else {
        return Ok(());
    };
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    fs::create_dir(to)?;
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(none, to, none, read_only | harmless, none)?)
}

/// Closes all descriptors except the three streams.
fn close_all() -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // One of the numbers was the descriptor of the directory itself.
        let _ = close(number);
    }
    Ok(())
}
