//! Cgroup of the sandbox.
//!
//! libvirt limits memory, CPU and I/O of the whole domain from outside. The hierarchy it shows inside depends on the host and can be
//! the whole tree of the host. So PID 1 moves to a cgroup of its own in the unified hierarchy and enters a cgroup namespace there:
//! systemd inside finds the same layout on every host, and sees no group of the host or of another sandbox. Processes are counted in
//! a hierarchy that libvirt does not use.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::root::{below, make_dir};
use crate::sys::cgroup::{EMULATOR, Membership, SOCKET_MEMORY, parse, socket_memory};
use crate::sys::poll;

/// Limits of the number and depth of groups below that of a sandbox: the kernel has 65535 in all with a memory controller. systemd
/// makes one for each unit.
const DESCENDANTS: [(&str, &str); 2] = [
    ("cgroup.max.descendants", "1024"),
    ("cgroup.max.depth", "32"),
];

/// Time for the host to enable controllers. A program of an older version never does.
const CONTROLLERS: Duration = Duration::from_secs(5);

/// Temporary mount point of a hierarchy, in the staging root: the new root may be read-only.
const MOUNT_POINT: &str = "/.cgroup";

/// Enters the cgroup `name` and a cgroup namespace, and mounts the namespace below `root` at `/sys/fs/cgroup`. `max_pids` limits
/// processes and threads. The group in the unified hierarchy is delegated to `owner`, who may change what is below it but not its own
/// limits (`cgroups(7)`, "Cgroups delegation"). With `has_units` it waits until the host has moved its own processes out of the group
/// of the domain, so that the sandbox gets controllers.
///
/// Returns files that move a process back to the groups this one came from.
pub fn enter(
    root: &Path,
    name: &str,
    max_pids: Option<u64>,
    owner: Option<u32>,
    has_units: bool,
) -> Result<Vec<File>> {
    let mut original = Vec::new();
    let memberships = parse(
        &fs::read_to_string(root.join("proc/self/cgroup"))
            .context("reading '/proc/self/cgroup'")?,
    );
    let unified = memberships
        .iter()
        .find(|membership| membership.is_unified())
        .ok_or_else(|| anyhow!("the kernel has no unified cgroup hierarchy"))?;
    let pids = memberships.iter().find(|membership| membership.has("pids"));

    if let Some(limit) = max_pids {
        match pids {
            Some(pids) => original.push(Hierarchy::mount(pids)?.join(name, Some(limit))?),
            None => Hierarchy::mount(unified)?.limit_pids(limit)?,
        }
    }
    if let Some(memory) = memberships
        .iter()
        .find(|membership| membership.has("memory"))
    {
        Hierarchy::mount(memory)?.limit_sockets()?;
    }
    let hierarchy = Hierarchy::mount(unified)?;
    let gets_controllers = has_units && hierarchy.has_controllers(unified);
    if gets_controllers {
        make_dir(&hierarchy.group.join(EMULATOR), 0o755)?;
    }
    original.push(hierarchy.join(name, None)?);
    hierarchy.limit_descendants(name)?;
    if gets_controllers {
        hierarchy.await_controllers(name);
    }
    if let Some(owner) = owner {
        hierarchy.delegate(name, owner)?;
    }
    drop(hierarchy);
    unshare(CloneFlags::CLONE_NEWCGROUP).context("entering a cgroup namespace")?;

    let target = root.join("sys/fs/cgroup");
    // Mounts of libvirt show groups of the host.
    while umount2(&target, MntFlags::MNT_DETACH).is_ok() {}
    mount_cgroup(&target, None)?;
    Ok(original)
}

fn mount_cgroup(target: &Path, controllers: Option<&str>) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let (kind, options) = match controllers {
        Some(controllers) => ("cgroup", Some(controllers)),
        None => ("cgroup2", None),
    };
    mount(Some(kind), target, Some(kind), flags, options)
        .with_context(|| format!("mounting {kind} on '{}'", target.display()))
}

/// A hierarchy that is mounted until this is dropped.
struct Hierarchy {
    mount_point: PathBuf,
    group: PathBuf,
}

impl Hierarchy {
    fn mount(membership: &Membership) -> Result<Self> {
        let mount_point = Path::new(MOUNT_POINT).to_owned();
        make_dir(&mount_point, 0o700)?;
        let controllers = (!membership.is_unified()).then_some(membership.controllers.as_str());
        mount_cgroup(&mount_point, controllers)?;
        let path = membership.domain_group().unwrap_or(&membership.path);
        let group = below(&mount_point, path);
        Ok(Self { mount_point, group })
    }

    /// Moves this process to the group `name`. Returns a file that moves it back.
    fn join(&self, name: &str, max_pids: Option<u64>) -> Result<File> {
        let emulator = self.group.join(EMULATOR);
        let before = if emulator.exists() {
            emulator
        } else {
            self.group.clone()
        };
        let before = before.join("cgroup.procs");
        let back = File::options().write(true).open(&before);
        let back = back.with_context(|| format!("opening '{}'", before.display()))?;
        let group = self.group.join(name);
        make_dir(&group, 0o755)?;
        if let Some(limit) = max_pids {
            set(&group.join("pids.max"), &limit.to_string())?;
        }
        set(&group.join("cgroup.procs"), "0")?;
        Ok(back)
    }

    /// Returns whether the sandbox can get controllers from this group.
    fn has_controllers(&self, membership: &Membership) -> bool {
        membership.domain_group().is_some() && !controllers(&self.group).is_empty()
    }

    /// Waits until the group has controllers. They are enabled once the host has moved its own processes out of the domain's group.
    fn await_controllers(&self, name: &str) {
        let group = self.group.join(name);
        let has_controllers = || !controllers(&group).is_empty();
        if !poll::until(CONTROLLERS, Duration::from_millis(5), has_controllers) {
            log::warn!("the host gave no cgroup controllers: limits of units have no effect");
        }
    }

    /// Limits the memory of sockets, before the sandbox opens the first: a socket older than the limit is never counted. libvirt has set
    /// the limit of memory.
    fn limit_sockets(&self) -> Result<()> {
        let (memory, sockets) = (
            self.group.join("memory.limit_in_bytes"),
            self.group.join(SOCKET_MEMORY),
        );
        // Without the file the kernel does not count sockets in version 1.
        if !sockets.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&memory)
            .with_context(|| format!("reading '{}'", memory.display()))?;
        let bytes: u64 = text
            .trim()
            .parse()
            .with_context(|| format!("reading '{}'", memory.display()))?;
        set(&sockets, &socket_memory(bytes).to_string())
    }

    /// Limits groups below the sandbox's. The files are not delegated.
    fn limit_descendants(&self, name: &str) -> Result<()> {
        for (file, most) in DESCENDANTS {
            let file = self.group.join(name).join(file);
            // Since Linux 4.14.
            if file.exists() {
                set(&file, most)?;
            }
        }
        Ok(())
    }

    fn delegate(&self, name: &str, owner: u32) -> Result<()> {
        let group = self.group.join(name);
        let files = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
        let files = files.map(|file| group.join(file));
        for path in std::iter::once(&group).chain(&files) {
            chown(path, Some(owner), Some(owner))
                .with_context(|| format!("handing over '{}'", path.display()))?;
        }
        Ok(())
    }

    /// Limits the number of processes of the domain, which has a group of its own in a unified hierarchy. libvirt may have made it
    /// below a scope of systemd. The scope is tried first, since the group may get the pids controller only later. Groups further up
    /// are shared with other processes. Logs a warning if neither group counts processes.
    fn limit_pids(&self, limit: u64) -> Result<()> {
        let scope = self
            .group
            .parent()
            .filter(|_| self.group.ends_with("libvirt"));
        let groups = [scope, Some(self.group.as_path())].into_iter().flatten();
        let Some(file) = groups
            .map(|group| group.join("pids.max"))
            .find(|file| file.exists())
        else {
            log::warn!("limiting processes to {limit}: no group of the domain counts them");
            return Ok(());
        };
        set(&file, &limit.to_string())
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        if umount2(&self.mount_point, MntFlags::MNT_DETACH).is_ok() {
            // The mount point is empty: a failure does no harm.
            let _ = fs::remove_dir(&self.mount_point);
        }
    }
}

/// Returns the controllers that are available in a group.
fn controllers(group: &Path) -> String {
    let text = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    text.trim().to_owned()
}

fn set(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing '{value}' to '{}'", path.display()))
}
