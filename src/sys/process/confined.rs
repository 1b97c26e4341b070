//! A program of the host that reads what somebody else has written, in formats that it may have mistakes in.
//!
//! Of the host it has the programs and libraries, and what it is to read: it is in namespaces of its own, in a root of its own that is
//! read-only, as a user who owns nothing, without capabilities, and can get none. Its streams are pipes of ours. unshare(1) and
//! setpriv(1) of util-linux do what is theirs; between them this program makes the root.

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

/// The subcommand of this program that [`become_reader`] is for.
pub const SUBCOMMAND: &str = "read-confined";

/// User and group id of the reader: the first id above those of containers (systemd's UIDS-GIDS), which nobody has.
const READER: u32 = 1_879_048_192;

/// Where what is read is, in the root of the program.
const PLACE: &str = "/view";

/// Directories of programs and libraries, each of which may be a link.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Files of the host that say in which zone its time is, and where libraries are. Everybody may read them.
const FILES: [&str; 2] = ["etc/localtime", "etc/ld.so.cache"];

/// Variables of the environment that the reader keeps: languages, and how terminals are written to.
const KEPT: [&str; 8] = [
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_TIME",
    "TZ",
    "SYSTEMD_LOG_LEVEL",
];

/// Most memory, in bytes: journalctl(1) has half a GiB of files mapped at a time.
const MEMORY: u64 = 4 << 30;

/// Mount that a confined program reads; it is attached nowhere.
#[derive(Debug)]
pub struct Reading {
    mount: OwnedFd,
    reader: u32,
}

impl Reading {
    /// Takes `mount`, and shows what root owns on it as the reader's own. The program can be started once.
    ///
    /// Where the kernel or the filesystem cannot show files as another's, the reader is root without any capability.
    #[must_use]
    pub fn new(mount: OwnedFd) -> Self {
        let shown = bind::show_as(&mount, READER);
        if let Err(error) = &shown {
            log::debug!("what is read keeps its owners: {error}");
        }
        Self {
            mount,
            reader: if shown.is_ok() { READER } else { 0 },
        }
    }

    /// Where the program has a directory of the mount.
    #[must_use]
    pub fn place(directory: &Path) -> PathBuf {
        Path::new(PLACE).join(directory.strip_prefix("/").unwrap_or(directory))
    }

    /// Starts `words`, by `own`, which is this program. Both its output and its errors are for us to read; it ends when we do.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self, own: &Path, words: &[&str]) -> io::Result<Child> {
        // A duplicate is not closed when a program is started (dup(2)).
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

/// Becomes the program `words`, which reads what the file number `mount` leads to; returns only on failure. The process has to be the
/// first one of a namespace of processes.
#[must_use]
pub fn become_reader(mount: RawFd, reader: u32, words: &[String]) -> io::Error {
    match confine(mount) {
        Ok(()) => {}
        Err(error) => return error,
    }
    let id = reader.to_string();
    let ids = ["--reuid", &id, "--regid", &id, "--clear-groups"];
    let capabilities = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];
    // Else a program of number 0 has what was given up (capabilities(7)).
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
    for name in KEPT {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    std::os::unix::process::CommandExt::exec(&mut command)
}

/// Leaves the host's namespaces and root.
fn confine(view: RawFd) -> io::Result<()> {
    // No terminal is its own any more.
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
    // Anywhere: it is this process's alone.
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
        show(&Path::new("/").join(name), &root.join(name))?;
    }
    fs::create_dir(root.join("etc"))?;
    for name in FILES {
        // What is not there is not needed.
        let _ = fs::copy(Path::new("/").join(name), root.join(name));
    }
    for name in ["proc", &PLACE[1..]] {
        fs::create_dir(root.join(name))?;
    }
    bind::attach(view, &root.join(&PLACE[1..]))?;
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
    // Linux 5.8 can leave out all but processes.
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

/// Shows a directory of the host read-only, or has the same link.
fn show(from: &Path, to: &Path) -> io::Result<()> {
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

/// Closes all files but the three streams.
fn close_all() -> io::Result<()> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // One of them was that of the directory itself.
        let _ = close(number);
    }
    Ok(())
}
