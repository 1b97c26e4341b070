//! Virtual machines: from the first process of an initramfs to power-off.
//!
//! The kernel starts PID 1 with nothing but the files of the initramfs. Everything that libvirt sets up for a container is made here.

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

/// Directory of kernel modules, named so that each sorts after those it needs.
const MODULES: &str = "/modules";

/// Time for the host to open the channel, which it does as soon as the machine runs.
const HOST_TIMEOUT: Duration = Duration::from_secs(30);

/// Filesystems that the kernel does not mount by itself: type, mount point and options.
const FILESYSTEMS: [(&str, &str, &str); 5] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=755"),
    // Group 5 is tty in every distribution; grantpt(3) needs it.
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Links that programs expect in `/dev` and no driver makes.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("fd/0", "/dev/stdin"),
    ("fd/1", "/dev/stdout"),
    ("fd/2", "/dev/stderr"),
];

/// Returns whether this is PID 1 of a virtual machine. In a container libvirt has mounted `/proc` already.
#[must_use]
pub fn is_machine() -> bool {
    !Path::new("/proc/self").exists()
}

/// Mounts the filesystems of the kernel, loads the modules and opens the console.
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

/// Opens the console. Its driver is a module, so the kernel could not open it for PID 1.
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

/// Loads the modules. A module that cannot be loaded is logged; whatever needs it fails later.
fn load_modules() -> Result<()> {
    let doing = || format!("reading '{MODULES}'");
    let entries = match fs::read_dir(MODULES) {
        // A kernel may have all drivers built in.
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
        // Files of an initramfs take memory.
        if let Err(error) = fs::remove_file(&path) {
            debug!("removing '{}': {error}", path.display());
        }
    }
    Ok(())
}

/// Returns the virtio-serial ports that have appeared, each with its name.
pub fn ports() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir("/sys/class/virtio-ports")
        .into_iter()
        .flatten();
    let port = |entry: fs::DirEntry| {
        // The host sends the name after the port.
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let node = Path::new("/dev").join(entry.file_name());
        node.exists().then(|| (name.trim_end().to_owned(), node))
    };
    entries.flatten().filter_map(port).collect()
}

/// Opens the port of the channel and waits for the first data of the host. A port can be opened only once at a time.
pub fn channel() -> Result<OwnedFd> {
    let path = wait_for(|| {
        let found = ports().into_iter().find(|(name, _)| name == PORT);
        found.map(|(_, node)| node)
    })
    .with_context(|| format!("looking for the port '{PORT}': it does not appear"))?;
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let port = open(&path, flags, Mode::empty())
        .with_context(|| format!("opening '{}'", path.display()))?;
    // Until the host has opened the port, poll(2) returns POLLHUP at once.
    let end = Instant::now() + HOST_TIMEOUT;
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

/// Hundredths of a second until changes of mapped files are written back, instead of thirty seconds: the host reads the journal, whose
/// files are mapped.
const WRITE_BACK: &str = "100";

/// Tunes the kernel of a service sandbox. A failure is logged only: the sandbox works without.
pub fn tune() {
    for name in ["dirty_expire_centisecs", "dirty_writeback_centisecs"] {
        let path = Path::new("/proc/sys/vm").join(name);
        if let Err(error) = fs::write(&path, WRITE_BACK) {
            warn!("writing '{WRITE_BACK}' to '{}': {error}", path.display());
        }
    }
}

/// Turns the machine off after its disks are synced.
pub fn power_off() -> ! {
    // All processes but this one, which is PID 1 (kill(2)).
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while wait().is_ok() {}
    sync_filesystems();
    loop {
        let Err(error) = reboot(RebootMode::RB_POWER_OFF);
        warn!("turning the machine off: {error}");
        thread::sleep(Duration::from_secs(1));
    }
}

/// Makes all filesystems on disks read-only, so that none has a journal to replay.
pub fn sync_filesystems() {
    sync();
    for mounted in mountinfo::read().unwrap_or_default().iter().rev() {
        if !Path::new(&mounted.source).starts_with("/dev") {
            continue;
        }
        // Remount the filesystem itself, without MS_BIND: there may be other mounts of it, invisible here.
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let none = None::<&str>;
        if let Err(error) = mount(none, &mounted.point, none, flags, none) {
            warn!("making '{}' read-only: {error}", mounted.point.display());
        }
        let _ = umount2(&mounted.point, MntFlags::empty());
    }
    sync();
}
