//! A virtual machine, from the first process of an initramfs to the end.
//!
//! The kernel has started it with nothing but the files of the archive: what libvirt gives a container is made here.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use log::{debug, warn};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::{Pid, sync};

use crate::block::wait_for;
use crate::mountinfo;
use crate::root::make_dir;
use crate::wire::{Frame, HEADER, LARGEST, PORT};

/// Where the host puts modules, named so that each comes after those it needs.
const MODULES: &str = "/modules";

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
    load_modules()
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

/// Opens the port to the host. It can be opened only once at a time, and reading it gives the end of file while the
/// host has not connected.
pub fn channel() -> Result<File> {
    let path = wait_for(|| {
        let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|port| {
            // The name comes in a message of its own, later than the port.
            let name = fs::read_to_string(port.path().join("name")).ok()?;
            let node = Path::new("/dev").join(port.file_name());
            (name.trim_end() == PORT && node.exists()).then_some(node)
        })
    })
    .with_context(|| format!("looking for the port '{PORT}': it does not appear"))?;
    let mut options = File::options();
    options.read(true).write(true);
    options
        .open(&path)
        .with_context(|| format!("opening '{}'", path.display()))
}

/// Reads the first frame, which is the config as JSON, and not one byte more.
pub fn first_frame(channel: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    fill(channel, &mut bytes)?;
    let length = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize;
    if length > LARGEST {
        bail!("reading the config: a message of {length} bytes");
    }
    bytes.resize(HEADER + length, 0);
    fill(channel, &mut bytes[HEADER..])?;
    match Frame::take(&mut bytes).context("reading the config")? {
        Some(Frame::Config(text)) => Ok(text),
        other => bail!("reading the config: {other:?} comes first"),
    }
}

fn fill(channel: &mut impl Read, mut bytes: &mut [u8]) -> Result<()> {
    while !bytes.is_empty() {
        match channel.read(bytes) {
            // Nobody is there yet, or not any more; it is for the host to give up.
            Ok(0) => thread::sleep(Duration::from_millis(5)),
            Ok(count) => bytes = &mut bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading the config"),
        }
    }
    Ok(())
}

/// Turns the machine off, once what was written to its disks is there.
pub fn power_off() -> ! {
    // kill(2): all but this process itself, which is the first.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while wait().is_ok() {}
    sync();
    settle();
    loop {
        let Err(error) = reboot(RebootMode::RB_POWER_OFF);
        warn!("turning the machine off: {error}");
        thread::sleep(Duration::from_secs(1));
    }
}

/// Leaves no filesystem of a disk writable, so that none has a journal to replay.
fn settle() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_after_the_config_is_taken() {
        let mut bytes = Vec::new();
        Frame::Config(b"{}".to_vec()).write(&mut bytes);
        bytes.extend(b"rest");
        let mut channel = bytes.as_slice();
        assert_eq!(first_frame(&mut channel).unwrap(), b"{}");
        assert_eq!(channel, b"rest");
    }

    #[test]
    fn anything_else_is_refused() {
        let mut bytes = Vec::new();
        Frame::Resize(1, 2).write(&mut bytes);
        let error = first_frame(&mut bytes.as_slice()).unwrap_err().to_string();
        assert_eq!(error, "reading the config: Some(Resize(1, 2)) comes first");
        let error = first_frame(&mut &[1, 255, 255, 255, 255][..]).unwrap_err();
        assert!(error.to_string().ends_with("bytes"), "{error}");
    }
}
