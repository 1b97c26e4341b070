//! Snapshots of the host, to check that a removed sandbox leaves nothing behind.
//!
//! A [`Snapshot`] is a set of lines, one for each object that a sandbox could leave behind; two are
//! compared as sets. Taking one changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::libvirtd::{PID_VARIABLE, URI_VARIABLE, qemu_uri};
use crate::user::{DIRECTORY_VARIABLE, UserDirectory};

/// Directories in which a sandbox has files; caches are not compared.
const TREES: [&str; 7] = [
    "/etc/libvirt-sandbox",
    "/etc/systemd/system",
    "/etc/logrotate.d",
    "/run/libvirt-sandbox",
    "/var/lib/virt-sandbox",
    "/var/lib/libvirt/filesystems",
    "/var/lib/libvirt-sandbox",
];

/// Time that the kernel and libvirt may take to finish after a command: network links and
/// cgroups vanish after the last process of a container.
const GRACE: Duration = Duration::from_secs(5);

/// Everything that a sandbox could leave behind, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Takes a snapshot of the host and of the private daemons that the environment names.
    ///
    /// # Errors
    ///
    /// `/proc` or libvirt cannot be read.
    pub fn take() -> Result<Self> {
        let mut seen = BTreeSet::new();
        if let Ok(uri) = std::env::var(URI_VARIABLE) {
            domains(&uri, "", &mut seen)?;
        }
        if std::env::var_os(PID_VARIABLE).is_some() {
            domains(&qemu_uri()?, " of QEMU", &mut seen)?;
        }
        if std::env::var_os(DIRECTORY_VARIABLE).is_some() {
            let user = UserDirectory::from_environment()?;
            domains(&user.uri(), " of the user", &mut seen)?;
            files(&user.runtime().join("virt-sandbox"), &mut seen);
        }
        if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
            files(&Path::new(&runtime).join("virt-sandbox"), &mut seen);
        }
        mounts("self", &mut seen)?;
        if let Ok(pid) = std::env::var(PID_VARIABLE) {
            mounts(&pid, &mut seen)?;
        }
        processes(&mut seen)?;
        for link in fs::read_dir("/sys/class/net")
            .context("reading '/sys/class/net'")?
            .flatten()
        {
            seen.insert(format!("network link {}", link.file_name().display()));
        }
        for tree in TREES {
            files(Path::new(tree), &mut seen);
        }
        loops(Path::new("/sys/block"), &mut seen);
        cgroups(Path::new("/sys/fs/cgroup"), false, &mut seen);
        Ok(Self(seen))
    }

    /// Returns the lines of `self` that are not in `before`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Returns the lines that are new since `self` was taken and do not vanish in time.
    ///
    /// # Errors
    ///
    /// See [`Snapshot::take`].
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let left = Self::take()?.since(self);
            if left.is_empty() || start.elapsed() > GRACE {
                return Ok(left);
            }
            sleep(Duration::from_millis(100));
        }
    }
}

fn domains(uri: &str, of: &str, seen: &mut BTreeSet<String>) -> Result<()> {
    let output = Command::new("virsh")
        .args(["--quiet", "--connect", uri, "list", "--all", "--name"])
        .output()
        .context("running 'virsh'")?;
    if !output.status.success() {
        bail!(
            "listing domains{of}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    for name in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty())
    {
        seen.insert(format!("domain {name}{of}"));
    }
    Ok(())
}

fn mounts(process: &str, seen: &mut BTreeSet<String>) -> Result<()> {
    let path = format!("/proc/{process}/mountinfo");
    let table = fs::read_to_string(&path).with_context(|| format!("reading '{path}'"))?;
    let place = if process == "self" {
        ""
    } else {
        " of libvirtd"
    };
    for line in table.lines() {
        seen.insert(format!("mount{place} {}", mount(line)));
    }
    Ok(())
}

/// Returns target, type and source of a line of proc_pid_mountinfo(5); its numbers change.
fn mount(line: &str) -> String {
    let (left, right) = line.split_once(" - ").unwrap_or((line, ""));
    let target = left.split(' ').nth(4).unwrap_or(left);
    let mut kind = right.split(' ');
    format!(
        "{target} ({} {})",
        kind.next().unwrap_or(""),
        kind.next().unwrap_or("")
    )
}

/// Adds processes of sandboxes: those with known names, and all in another pid namespace.
fn processes(seen: &mut BTreeSet<String>) -> Result<()> {
    let own = fs::read_link("/proc/self/ns/pid").context("reading '/proc/self/ns/pid'")?;
    for entry in fs::read_dir("/proc").context("reading '/proc'")?.flatten() {
        let path = entry.path();
        // A process that ends during these reads is not left behind.
        let Ok(command) = fs::read(path.join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let Ok(name) = fs::read_to_string(path.join("comm")) else {
            continue;
        };
        let program = fs::read_link(path.join("exe")).ok();
        let program = program
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        let ours = ["libvirt_lxc", "guest-init", "systemd", "virtiofsd"];
        let elsewhere = fs::read_link(path.join("ns/pid")).is_ok_and(|namespace| namespace != own);
        // libvirt names its guests this way; any other QEMU is not ours.
        let guest = command.contains("qemu-system-") && command.contains(" -name guest=");
        if elsewhere
            || guest
            || ours.contains(&name.trim())
            || program.is_some_and(|program| ours.contains(&program))
        {
            if of_other_run(&entry.file_name().to_string_lossy()) {
                continue;
            }
            seen.insert(format!(
                "process {} {}",
                entry.file_name().display(),
                command.trim()
            ));
        }
    }
    Ok(())
}

/// Returns whether a process is below the daemons, or the command, of another test run on this host.
fn of_other_run(pid: &str) -> bool {
    let own = [
        std::process::id().to_string(),
        std::env::var(PID_VARIABLE).unwrap_or_default(),
    ];
    let mut pid = pid.to_owned();
    while pid != "0" && !own.contains(&pid) {
        // A process may end during these reads, which leaves its children orphans.
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split('\0');
        if words
            .next()
            .is_some_and(|word| word.ends_with("test-harness"))
            && words
                .next()
                .is_some_and(|word| ["serve", "with-libvirtd"].contains(&word))
        {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        pid = parent.map_or("0", str::trim).to_owned();
    }
    false
}

/// Adds loop devices that have a file, from sysfs. Skips those of another test run: the path of a file in another namespace, such
/// as `/image`, does not identify its owner.
fn loops(block: &Path, seen: &mut BTreeSet<String>) {
    for entry in fs::read_dir(block).into_iter().flatten().flatten() {
        if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            let device = entry.file_name();
            let number = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
            if !is_held_by_other_run(&device.to_string_lossy(), number.trim()) {
                seen.insert(format!("loop device {} {}", device.display(), file.trim()));
            }
        }
    }
}

/// Returns whether a process of another test run has the block device open or mounted. `number` is "MAJOR:MINOR".
fn is_held_by_other_run(device: &str, number: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| {
            has_open(&process.path(), device) || has_mounted(&process.path(), device, number)
        })
        .any(|process| of_other_run(&process.file_name().to_string_lossy()))
}

fn has_open(process: &Path, device: &str) -> bool {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten();
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|path| path.file_name().is_some_and(|name| name == device))
}

/// Returns whether the device is mounted in the process's namespace. Btrfs shows another number, so the source is compared, too.
fn has_mounted(process: &Path, device: &str, number: &str) -> bool {
    let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    table.lines().any(|line| {
        let source = line
            .split(" - ")
            .nth(1)
            .and_then(|end| end.split(' ').nth(1));
        let source = source.and_then(|source| Path::new(source).file_name());
        line.split(' ').nth(2) == Some(number) || source.is_some_and(|name| name == device)
    })
}

fn files(path: &Path, seen: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        seen.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), seen);
        }
    }
}

/// Adds cgroups below `machine` and our own slices. libvirt keeps `machine` itself, its default partition. Skips other test runs'.
fn cgroups(path: &Path, inside: bool, seen: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let partition = name == "machine" || name == "machine.slice";
        let inside = inside || name.starts_with("machine") || name.starts_with("virt-sandbox");
        if inside && !partition {
            if members(&entry.path()).iter().any(|pid| of_other_run(pid)) {
                continue;
            }
            seen.insert(format!("cgroup {}", entry.path().display()));
        }
        cgroups(&entry.path(), inside, seen);
    }
}

/// Returns the processes of a cgroup and of those below it.
fn members(path: &Path) -> Vec<String> {
    let listed = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut members: Vec<String> = listed.lines().map(str::to_owned).collect();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members.extend(self::members(&entry.path()));
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_named_by_what_stays_the_same() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount(line), "/mnt2 (ext3 /dev/root)");
    }

    #[test]
    fn a_loop_device_without_a_file_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("loop0")).unwrap();
        fs::create_dir_all(dir.path().join("loop4711/loop")).unwrap();
        fs::write(dir.path().join("loop4711/loop/backing_file"), "/image\n").unwrap();
        let mut seen = BTreeSet::new();
        loops(dir.path(), &mut seen);
        assert_eq!(Vec::from_iter(seen), ["loop device loop4711 /image"]);
    }

    #[test]
    fn files_are_listed_with_what_is_below_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), "").unwrap();
        let mut seen = BTreeSet::new();
        files(dir.path(), &mut seen);
        assert_eq!(seen.len(), 2);
    }
}
