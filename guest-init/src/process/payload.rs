//! Cgroup of the payload of a virtual machine, which limits its processes. guest-init, the agent and the kernel's threads are outside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::sys::cgroup::{KERNEL_THREADS, parse, procs_file};
use crate::sys::mountinfo;

/// Mount point of the unified hierarchy.
const HIERARCHY: &str = "/sys/fs/cgroup";

/// The group.
const GROUP: &str = "/sys/fs/cgroup/payload";

/// Makes the group, with at most `max_pids` processes and threads.
///
/// Returns whether there is one: a kernel without the pids controller counts nothing, which is logged.
pub fn make(max_pids: u64) -> Result<bool> {
    let hierarchy = Path::new(HIERARCHY);
    let controllers = fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default();
    let controllers: Vec<&str> = controllers.split_whitespace().collect();
    if !controllers.contains(&"pids") {
        log::warn!(
            "limiting processes to {max_pids}: the kernel of the machine does not count them"
        );
        return Ok(false);
    }
    // All: systemd limits its units with them.
    for controller in controllers {
        let file = hierarchy.join("cgroup.subtree_control");
        write(&file, &format!("+{controller}"))?;
    }
    fs::create_dir(GROUP).with_context(|| format!("making '{GROUP}'"))?;
    write(&Path::new(GROUP).join("pids.max"), &max_pids.to_string())?;
    raise_threads(max_pids);
    Ok(true)
}

/// Lets the kernel have threads enough for the payload to reach its limit: by default their number depends on the memory.
fn raise_threads(max_pids: u64) {
    let file = Path::new("/proc/sys/kernel/threads-max");
    let wanted = max_pids.saturating_add(KERNEL_THREADS);
    let text = fs::read_to_string(file).unwrap_or_default();
    if text.trim().parse().is_ok_and(|usual: u64| usual >= wanted) {
        return;
    }
    if let Err(error) = fs::write(file, wanted.to_string()) {
        log::warn!("writing '{wanted}' to '{}': {error}", file.display());
    }
}

/// Enters the group and a cgroup namespace, so that systemd finds at `/sys/fs/cgroup` what it finds on a host.
pub fn enter() -> Result<()> {
    write(&Path::new(GROUP).join("cgroup.procs"), "0")?;
    unshare(CloneFlags::CLONE_NEWCGROUP).context("entering a cgroup namespace")?;
    umount2(HIERARCHY, MntFlags::MNT_DETACH)
        .with_context(|| format!("unmounting '{HIERARCHY}'"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = Some("cgroup2");
    mount(kind, HIERARCHY, kind, flags, None::<&str>)
        .with_context(|| format!("mounting cgroup2 on '{HIERARCHY}'"))
}

/// Moves this process to the payload: to the group, or to that of an init that has entered it.
pub fn join() -> Result<()> {
    let file = Path::new(GROUP).join("cgroup.procs");
    if file.exists() {
        return write(&file, "0");
    }
    // systemd leaves the group at its start, when it makes groups for units.
    group_of_init()
        .and_then(|file| write(&file, "0"))
        .or_else(|_| write(&group_of_init()?, "0"))
}

fn group_of_init() -> Result<PathBuf> {
    let groups = parse(&fs::read_to_string("/proc/1/cgroup").context("reading '/proc/1/cgroup'")?);
    let mounts = mountinfo::read().context("reading the mounts of this process")?;
    let unified = groups.iter().find(|group| group.is_unified());
    unified
        .and_then(|group| procs_file(group, &mounts))
        .context("looking for the group of init")
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing '{value}' to '{}'", path.display()))
}
