//! The sandbox's place in the cgroup hierarchies.
//!
//! libvirt limits memory, CPU and I/O of the whole domain outside; what it shows inside differs
//! with the host's layout and can be the host's whole tree. PID 1 therefore takes a cgroup of its own in the
//! unified hierarchy, enters a cgroup namespace there and shows that alone: systemd inside finds one layout
//! on every host, and neither the host's groups nor another sandbox's. Processes are
//! counted in a hierarchy that libvirt leaves alone.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::root::{below, make_dir};
use crate::sys::cgroup::{EMULATOR, Membership, SOCKET_MEMORY, parse, socket_memory};

/// How many groups there may be below a sandbox's own, and how deep: the kernel has only so many for all (65535 with a memory
/// controller). systemd has one for each unit.
const DESCENDANTS: [(&str, &str); 2] = [
    ("cgroup.max.descendants", "1024"),
    ("cgroup.max.depth", "32"),
];

/// How long the host may take to give controllers; one that does not know of it never does.
const CONTROLLERS: Duration = Duration::from_secs(5);

/// Where a hierarchy is mounted for a moment, in the staging root: the new root may be read-only.
const MOMENTARY: &str = "/.cgroup";

/// Enters the cgroup `name` and a cgroup namespace, and mounts it below `root` at
/// `/sys/fs/cgroup`. `max_pids` bounds processes and threads. The group in the unified hierarchy is given to `owner`, as far
/// as it may change what is below and not its own limits (`cgroups(7)`, delegation). With `has_units` it waits until the host
/// has taken its own processes out of the domain's group, so that controllers reach the sandbox.
///
/// Gives the files that take a process back to the groups it came from.
pub fn enter(
    root: &Path,
    name: &str,
    max_pids: Option<u64>,
    owner: Option<u32>,
    has_units: bool,
) -> Result<Vec<File>> {
    let mut back = Vec::new();
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
            Some(pids) => back.push(Hierarchy::mount(pids)?.join(name, Some(limit))?),
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
    let shares = has_units && hierarchy.shares(unified);
    if shares {
        make_dir(&hierarchy.group.join(EMULATOR), 0o755)?;
    }
    back.push(hierarchy.join(name, None)?);
    hierarchy.limit_descendants(name)?;
    if shares {
        hierarchy.await_controllers(name);
    }
    if let Some(owner) = owner {
        hierarchy.delegate(name, owner)?;
    }
    drop(hierarchy);
    unshare(CloneFlags::CLONE_NEWCGROUP).context("entering a cgroup namespace")?;

    let target = root.join("sys/fs/cgroup");
    // What libvirt mounted there shows the host's groups.
    while umount2(&target, MntFlags::MNT_DETACH).is_ok() {}
    mount_cgroup(&target, None)?;
    Ok(back)
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

/// A hierarchy mounted for a moment, to work in it.
struct Hierarchy {
    mount_point: PathBuf,
    group: PathBuf,
}

impl Hierarchy {
    fn mount(membership: &Membership) -> Result<Self> {
        let mount_point = Path::new(MOMENTARY).to_owned();
        make_dir(&mount_point, 0o700)?;
        let controllers = (!membership.is_unified()).then_some(membership.controllers.as_str());
        mount_cgroup(&mount_point, controllers)?;
        let path = membership.domain_group().unwrap_or(&membership.path);
        let group = below(&mount_point, path);
        Ok(Self { mount_point, group })
    }

    /// Gives the way back.
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

    /// Whether controllers can reach the sandbox through this group.
    fn shares(&self, membership: &Membership) -> bool {
        membership.domain_group().is_some() && !controllers(&self.group).is_empty()
    }

    /// Only the host can move what it has in the domain's group, and only then the group gives controllers to those below.
    fn await_controllers(&self, name: &str) {
        let group = self.group.join(name);
        let begin = Instant::now();
        while controllers(&group).is_empty() {
            if begin.elapsed() > CONTROLLERS {
                log::warn!("the host gave no cgroup controllers: limits of units have no effect");
                return;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Before the first socket of the sandbox: one that is there before the limit is never counted. libvirt has set that of memory.
    fn limit_sockets(&self) -> Result<()> {
        let (memory, sockets) = (
            self.group.join("memory.limit_in_bytes"),
            self.group.join(SOCKET_MEMORY),
        );
        // A kernel without that counts no sockets in version 1.
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

    /// The files stay the host's when the group is handed over.
    fn limit_descendants(&self, name: &str) -> Result<()> {
        for (file, most) in DESCENDANTS {
            let file = self.group.join(name).join(file);
            // Linux has it from 4.14 on.
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

    /// Limits the number of processes of the domain. In a unified hierarchy the domain has a group of its own already. Below a
    /// scope of systemd's libvirt makes another one, named after itself, in which the host may count processes only later; the
    /// scope is tried first, therefore. Any group above is shared with others. A kernel that counts in none of them gets a warning.
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
            // Only the empty mount point is left; it would merely look odd in the root.
            let _ = fs::remove_dir(&self.mount_point);
        }
    }
}

/// Those that a group can bound by.
fn controllers(group: &Path) -> String {
    let text = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    text.trim().to_owned()
}

fn set(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing '{value}' to '{}'", path.display()))
}
