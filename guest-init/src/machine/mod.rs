//! A virtual machine, from the first process of an initramfs to the end.
//!
//! The kernel has started it with nothing but the files of the archive: what libvirt gives a container is made here.

pub mod agent;
pub mod block;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use log::{debug, warn};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::wait;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, sync};

use crate::channel::wire::PORT;
use crate::machine::block::wait_for;
use crate::root::make_dir;
use crate::sys::mountinfo;

/// Where the host puts modules, named so that each comes after those it needs.
const MODULES: &str = "/modules";

/// How long the host may take to open the channel: it does as soon as the machine runs.
const HOST_PATIENCE: Duration = Duration::from_secs(30);

/// What the kernel does not mount by itself: type, place and options.
const FILESYSTEMS: [(&str, &str, &str); 5] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=755"),
    // Group 5 is tty everywhere; grantpt(3) wants it.
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// What programs expect in `/dev` and no driver makes.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("fd/0", "/dev/stdin"),
    ("fd/1", "/dev/stdout"),
    ("fd/2", "/dev/stderr"),
];

/// Whether this is the first process of a virtual machine. In a container libvirt has mounted `/proc` before.
#[must_use]
pub fn is_one() -> bool {
    !Path::new("/proc/self").exists()
}

/// Mounts what the kernel shows of itself and loads the modules.
pub fn prepare() -> Result<()> {
    for (kind, at, options) in FILESYSTEMS {
        make_dir(Path::new(at), 0o755)?;
        let flags = MsFlags::MS_NOSUID
            | match kind {
                "devtmpfs" | "devpts" => MsFlags::MS_NOEXEC,
                _ => MsFlags::MS_NOEXEC | MsFlags::MS_NODEV,
            };
        mount(Some(kind), at, Some(kind), flags, Some(options))
            .with_context(|| format!("mounting {kind} on '{at}'"))?;
    }
    for (leads_to, link) in LINKS {
        match symlink(leads_to, link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("linking '{link}'"));
            }
            Ok(()) | Err(_) => {}
        }
    }
    load_modules()?;
    take_console();
    Ok(())
}

/// The kernel gives the first process its console where there is one by then; ours comes with a module.
fn take_console() {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let Ok(console) = open("/dev/console", flags, Mode::empty()) else {
        return;
    };
    let connected = dup2_stdin(&console)
        .and_then(|()| dup2_stdout(&console))
        .and_then(|()| dup2_stderr(&console));
    if let Err(error) = connected {
        warn!("connecting to the console: {error}");
    }
}

/// A module that cannot be loaded is only said: whether anything needs it, that will tell.
fn load_modules() -> Result<()> {
    let doing = || format!("reading '{MODULES}'");
    let entries = match fs::read_dir(MODULES) {
        // A kernel may have all that is needed built in.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(doing)?,
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(doing)?;
    paths.sort();
    for path in paths {
        let file = File::open(&path).with_context(|| format!("opening '{}'", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => warn!("loading '{}': {error}", path.display()),
        }
        drop(file);
        // The files of an initramfs are memory.
        if let Err(error) = fs::remove_file(&path) {
            debug!("removing '{}': {error}", path.display());
        }
    }
    Ok(())
}

/// The ports to the host that are there by now, each with its name.
pub fn ports() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir("/sys/class/virtio-ports")
        .into_iter()
        .flatten();
    let port = |entry: fs::DirEntry| {
        // The name comes in a message of its own, later than the port.
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let node = Path::new("/dev").join(entry.file_name());
        node.exists().then(|| (name.trim_end().to_owned(), node))
    };
    entries.flatten().filter_map(port).collect()
}

/// Opens the port to the host, which can be opened only once at a time, and waits until the host says something.
pub fn channel() -> Result<OwnedFd> {
    let path = wait_for(|| {
        let found = ports().into_iter().find(|(name, _)| name == PORT);
        found.map(|(_, node)| node)
    })
    .with_context(|| format!("looking for the port '{PORT}': it does not appear"))?;
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let port = open(&path, flags, Mode::empty())
        .with_context(|| format!("opening '{}'", path.display()))?;
    // Until the host has connected, poll(2) says at once that it is gone; which it may be for ever.
    let end = Instant::now() + HOST_PATIENCE;
    while Instant::now() < end {
        let mut polled = [PollFd::new(port.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::NONE).context("waiting for the host")?;
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            return Ok(port);
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("waiting for the host: nobody has opened the channel");
}

/// What is mapped and changed is written back after so many hundredths of a second, instead of thirty seconds: the host reads the
/// journal, which is written so.
const WRITE_BACK: &str = "100";

/// Sets what the kernel of a sandbox that lasts has to know. It works without, so a failure is only said.
pub fn tune(max_threads: Option<u64>) {
    let threads = max_threads.map(|most| ("kernel/threads-max", most.to_string()));
    let write_back = ["dirty_expire_centisecs", "dirty_writeback_centisecs"]
        .map(|name| (["vm", name].join("/"), WRITE_BACK.to_owned()));
    let threads = threads.map(|(name, value)| (name.to_owned(), value));
    for (name, value) in threads.into_iter().chain(write_back) {
        let path = Path::new("/proc/sys").join(name);
        if let Err(error) = fs::write(&path, &value) {
            warn!("writing '{value}' to '{}': {error}", path.display());
        }
    }
}

/// Turns the machine off, once what was written to its disks is there.
pub fn power_off() -> ! {
    // kill(2): all but this process itself, which is the first.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while wait().is_ok() {}
    sync_filesystems();
    loop {
        let Err(error) = reboot(RebootMode::RB_POWER_OFF);
        warn!("turning the machine off: {error}");
        thread::sleep(Duration::from_secs(1));
    }
}

/// Leaves no filesystem of a disk writable, so that none has a journal to replay.
pub fn sync_filesystems() {
    sync();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<_> = mountinfo::mounts(&table).collect();
    for mounted in mounts.iter().rev() {
        if !mounted.source.starts_with("/dev/") {
            continue;
        }
        // The filesystem as a whole, of which there may be other mounts that cannot be seen from here.
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let none = None::<&str>;
        if let Err(error) = mount(none, &mounted.point, none, flags, none) {
            warn!("making '{}' read-only: {error}", mounted.point.display());
        }
        let _ = umount2(&mounted.point, MntFlags::empty());
    }
    sync();
}
