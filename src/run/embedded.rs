//! libvirt's QEMU driver in this process: the directory that it keeps its files in, and the QEMU that it starts.
//!
//! The driver has no domains that end with a connection, and takes no notice of other processes that use its directory.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::sys::file::private;
use crate::sys::process::pidfd::Process;

/// The longest path of a Unix socket, in bytes (`unix(7)`).
const LONGEST_SOCKET: usize = 107;

/// Characters of a domain's name that are in the paths of its files (`VIR_DOMAIN_SHORT_NAME_MAX` of libvirt).
const SHORT_NAME: usize = 20;

/// Configuration of the driver: without it the driver would start a virtlogd.
const CONFIGURATION: &str = "stdio_handler = \"file\"\n";

/// Interval of looking for a QEMU that has ended.
const REAPING: Duration = Duration::from_millis(10);

/// Time that a killed QEMU may take to end.
const END: Duration = Duration::from_secs(10);

/// Time that a QEMU may take that is ending already.
const LAST_STEPS: Duration = Duration::from_secs(2);

/// Makes the directory `root` of a driver for the domain `name`, if it is not there yet. The driver caches the capabilities of QEMU,
/// which take seconds to find out, in `cache`.
///
/// # Errors
/// Where it cannot be made, or its path is too long for the sockets in it.
pub fn prepare(root: &Path, name: &SandboxName, cache: Option<&Path>) -> Result<()> {
    let monitor = "/lib/qemu/domain-1-/monitor.sock".len() + name.as_str().len().min(SHORT_NAME);
    if root.as_os_str().len() + monitor > LONGEST_SOCKET {
        return Err(Error::refused(format!(
            "the path of a socket in '{}' would be longer than {LONGEST_SOCKET} bytes; choose a shorter --name, or a shorter \
             directory with -c qemu:///embed?root=DIR",
            root.display()
        )));
    }
    // Sockets of QEMU are below it. root's QEMU passes through as another user.
    if !root.exists() {
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        private::directory(root, mode).map_err(Error::io("creating", root))?;
    }
    let configuration = root.join("etc/qemu.conf");
    let etc = root.join("etc");
    fs::create_dir_all(&etc).map_err(Error::io("creating", &etc))?;
    if !configuration.exists() {
        fs::write(&configuration, CONFIGURATION).map_err(Error::io("writing", &configuration))?;
    }
    if let Some(cache) = cache {
        for directory in cache.parent().into_iter().chain([cache]) {
            private::directory(directory, 0o700).map_err(Error::io("creating", directory))?;
        }
        let link = root.join("cache");
        symlink(cache, &link).map_err(Error::io("linking", &link))?;
    }
    Ok(())
}

/// Reaps the processes that the driver of `root` orphans: it waits until nothing is left of a QEMU, and the first process of the
/// host may be slow to reap it.
pub fn reap(root: &Path) {
    if let Err(error) = set_child_subreaper(true) {
        log::debug!("becoming a subreaper: {error}");
        return;
    }
    let (domains, probes) = (pid_files(root), root.join("lib/qemu"));
    std::thread::spawn(move || {
        // A QEMU that is probed for its capabilities removes its pid file before it has ended.
        let mut known = BTreeSet::new();
        loop {
            known.extend(pids(&domains));
            known.extend(probed(&probes));
            known.retain(|pid| is_left(*pid));
            std::thread::sleep(REAPING);
        }
    });
}

/// Returns whether a process is still to be waited for. It becomes our child when its parent has ended.
fn is_left(pid: i32) -> bool {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => status == WaitStatus::StillAlive,
        Err(_) => Path::new("/proc").join(pid.to_string()).exists(),
    }
}

/// Returns the QEMUs that libvirt probes for their capabilities, each in a directory of its own (`qmp-XXXXXX/qmp.pid`).
fn probed(directory: &Path) -> Vec<i32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_probe = |entry: &DirEntry| entry.file_name().as_bytes().starts_with(b"qmp-");
    entries
        .filter(is_probe)
        .filter_map(|entry| pid_in(&entry.path().join("qmp.pid")))
        .collect()
}

/// Ends the QEMU of the domain `name` that a killed driver of `root` has left.
pub fn end(root: &Path, name: &str) -> Result<()> {
    // A QEMU that has ended by itself leaves its groups, too; it removes its pid file while it is still in them.
    let groups = cgroup::find_embedded(|group| is_group_of(group, name));
    let members = groups.iter().flat_map(|group| cgroup::members(group));
    for pid in pid_in(&pid_file(root, name)).into_iter().chain(members) {
        end_process(pid, root, name)?;
    }
    // Groups that stay are of another machine of that name.
    let _ = cgroup::remove_all(&groups);
    Ok(())
}

fn end_process(pid: i32, root: &Path, name: &str) -> Result<()> {
    let failed = || Error::step::<io::Error>(format!("ending the virtual machine '{name}'"));
    let number = u32::try_from(pid).unwrap_or_default();
    // Another process may have the number by now; from here on it is held.
    let Ok(process) = Process::open(number) else {
        return Ok(());
    };
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if arguments.is_empty() {
        // It has given up its memory and is about to leave its groups, or is a thread of the kernel.
        let _ = process.wait(LAST_STEPS);
    } else if is_of(&arguments, root, name) {
        process.signal(Signal::SIGKILL).map_err(failed())?;
        if !process.wait(END) {
            return Err(failed()(io::ErrorKind::TimedOut.into()));
        }
    }
    Ok(())
}

/// Returns whether libvirt made a group for the domain: it is called `qemu-embed-HASH-ID-NAME.libvirt-qemu`.
fn is_group_of(group: &str, name: &str) -> bool {
    let short: String = name.chars().take(SHORT_NAME).collect();
    group.starts_with("qemu-embed-") && group.ends_with(&format!("-{short}.libvirt-qemu"))
}

/// Returns whether these are the arguments of the domain's QEMU: they have its name, and files in the driver's directory.
fn is_of(arguments: &[u8], root: &Path, name: &str) -> bool {
    let guest = format!("guest={name},");
    let root = root.join("lib/qemu/");
    let is_named = arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument.starts_with(guest.as_bytes()));
    let root = root.as_os_str().as_bytes();
    is_named && arguments.windows(root.len()).any(|part| part == root)
}

fn pid_files(root: &Path) -> PathBuf {
    root.join("run/qemu")
}

fn pid_file(root: &Path, name: &str) -> PathBuf {
    pid_files(root).join(format!("{name}.pid"))
}

fn pids(directory: &Path) -> Vec<i32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "pid"))
        .filter_map(|path| pid_in(&path))
        .collect()
}

/// Reads a pid file of libvirt; `None` if it has no number of a process.
fn pid_in(path: &Path) -> Option<i32> {
    let text = fs::read_to_string(path).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_prepared_once() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let (root, cache) = (dir.path().join("d"), dir.path().join("cache"));
        let name: SandboxName = "a".parse().unwrap();
        prepare(&root, &name, Some(&cache)).unwrap();
        assert_eq!(fs::read_link(root.join("cache")).unwrap(), cache);
        let configuration = root.join("etc/qemu.conf");
        fs::write(&configuration, "user = \"x\"\n").unwrap();
        prepare(&root, &name, None).unwrap();
        assert_eq!(
            fs::read_to_string(&configuration).unwrap(),
            "user = \"x\"\n"
        );
        let long = dir.path().join("x".repeat(80));
        let message = prepare(&long, &name, None).unwrap_err().to_string();
        assert!(message.contains("shorter --name"), "{message}");
        assert!(!long.exists());
    }

    #[test]
    fn a_qemu_that_is_probed_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        for (place, pid) in [("qmp-a", "70"), ("qmp-b", "x"), ("domain-1-a", "71")] {
            fs::create_dir(root.path().join(place)).unwrap();
            fs::write(root.path().join(place).join("qmp.pid"), pid).unwrap();
        }
        assert_eq!(probed(root.path()), [70]);
        #[allow(clippy::zombie_processes)] // It is waited for by its number.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_left(pid));
        drop(child.stdin.take());
        while is_left(pid) {
            std::thread::sleep(REAPING);
        }
        assert!(!Path::new("/proc").join(pid.to_string()).exists());
    }

    #[test]
    fn a_qemu_is_known_by_its_arguments() {
        let arguments =
            b"qemu\0-name\0guest=a,debug-threads=on\0-object\0{\"file\":\"/x/lib/qemu/domain-1-a/key\"}\0";
        assert!(is_of(arguments, Path::new("/x"), "a"));
        assert!(!is_of(arguments, Path::new("/x"), "b"));
        assert!(!is_of(arguments, Path::new("/y"), "a"));
        assert!(!is_of(b"", Path::new("/x"), "a"));
    }

    #[test]
    fn a_group_is_known_by_its_name() {
        let group = "qemu-embed-f0264f0a-1-sandbox-0123456789ab.libvirt-qemu";
        assert!(is_group_of(group, "sandbox-0123456789abcdef"));
        assert!(!is_group_of(group, "box-0123456789"));
        assert!(!is_group_of("qemu-1-a.libvirt-qemu", "a"));
    }

    #[test]
    fn only_that_qemu_is_ended() {
        let root = tempfile::tempdir().unwrap();
        end(root.path(), "a").unwrap();
        let files = pid_files(root.path());
        fs::create_dir_all(&files).unwrap();
        let file = root.path().join("lib/qemu/x");
        let mut other = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let mut ours = std::process::Command::new("sh")
            .args(["-c", "read x"])
            .arg("guest=a,x")
            .arg(file)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for (name, child) in [("a", &ours), ("b", &other)] {
            fs::write(files.join(format!("{name}.pid")), child.id().to_string()).unwrap();
            end(root.path(), name).unwrap();
        }
        assert!(other.try_wait().unwrap().is_none());
        assert!(!ours.wait().unwrap().success());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
