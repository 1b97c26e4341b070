//! The sandbox's place in the cgroup hierarchies.
//!
//! libvirt limits memory, CPU and I/O of the whole domain outside; what it shows inside differs
//! with the host's layout and can be the host's whole tree. PID 1 therefore takes a cgroup of its own in the
//! unified hierarchy, enters a cgroup namespace there and shows that alone: systemd inside finds one layout
//! on every host, and neither the host's groups nor another sandbox's. Processes are
//! counted in a hierarchy that libvirt leaves alone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::root::{below, make_dir};

/// Where a hierarchy is mounted for a moment, in the staging root: the new root may be read-only.
const MOMENTARY: &str = "/.cgroup";

/// A line of `/proc/PID/cgroup` (`cgroups(7)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Controllers of a version 1 hierarchy, as mount options; empty for version 2.
    pub controllers: String,
    /// The cgroup, from the root of the hierarchy.
    pub path: PathBuf,
}

impl Membership {
    /// Whether this is the unified hierarchy.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }
}

/// Reads the text of `/proc/PID/cgroup`.
#[must_use]
pub fn parse(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some(Membership {
                controllers: fields.next()?.to_owned(),
                path: fields.next()?.into(),
            })
        })
        .collect()
}

/// The file that takes processes into the cgroup of `membership`, if its hierarchy is mounted according to
/// `mountinfo`.
#[must_use]
pub fn procs_file(membership: &Membership, mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, mount_point) = (mount.next()?, mount.next()?);
        let (kind, options) = (filesystem.split(' ').next()?, filesystem.split(' ').nth(2)?);
        let is_it = if membership.is_unified() {
            kind == "cgroup2"
        } else {
            let mut wanted = membership.controllers.split(',');
            kind == "cgroup" && wanted.all(|name| options.split(',').any(|option| option == name))
        };
        let group = membership.path.strip_prefix(root).ok().filter(|_| is_it)?;
        Some(Path::new(mount_point).join(group).join("cgroup.procs"))
    })
}

/// Enters the cgroup `name` and a cgroup namespace, and mounts it below `root` at
/// `/sys/fs/cgroup`. `max_pids` bounds processes and threads.
pub fn enter(root: &Path, name: &str, max_pids: Option<u64>) -> Result<()> {
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
            Some(pids) => Hierarchy::mount(pids)?.join(name, Some(limit))?,
            None => Hierarchy::mount(unified)?.limit_pids(limit),
        }
    }
    Hierarchy::mount(unified)?.join(name, None)?;
    unshare(CloneFlags::CLONE_NEWCGROUP).context("entering a cgroup namespace")?;

    let target = root.join("sys/fs/cgroup");
    // What libvirt mounted there shows the host's groups.
    while umount2(&target, MntFlags::MNT_DETACH).is_ok() {}
    mount_cgroup(&target, None)
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
        let group = below(&mount_point, &membership.path);
        Ok(Self { mount_point, group })
    }

    fn join(&self, name: &str, max_pids: Option<u64>) -> Result<()> {
        let group = self.group.join(name);
        make_dir(&group, 0o755)?;
        if let Some(limit) = max_pids {
            set(&group.join("pids.max"), &limit.to_string())?;
        }
        set(&group.join("cgroup.procs"), "0")
    }

    /// In a unified hierarchy the domain has a group of its own already, and below a scope of systemd's libvirt makes
    /// another one, named after itself. Any group above is shared with others. That none counts processes is only
    /// said.
    fn limit_pids(&self, limit: u64) {
        let scope = self
            .group
            .parent()
            .filter(|_| self.group.ends_with("libvirt"));
        let groups = [Some(self.group.as_path()), scope].into_iter().flatten();
        let Some(file) = groups
            .map(|group| group.join("pids.max"))
            .find(|file| file.exists())
        else {
            log::warn!("limiting processes to {limit}: no group of the domain counts them");
            return;
        };
        if let Err(error) = set(&file, &limit.to_string()) {
            log::warn!("{error:#}");
        }
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

fn set(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("writing '{value}' to '{}'", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_of_both_versions_are_read() {
        let found =
            parse("9:name=systemd:/\n8:pids:/user:odd\n1:cpu,cpuacct:/x\n0::/machine/web1\n");
        assert_eq!(found.len(), 4);
        assert!(found[1].has("pids") && found[1].path == Path::new("/user:odd"));
        assert!(found[2].has("cpuacct") && !found[2].has("cp"));
        assert!(found[3].is_unified() && !found[0].is_unified());
    }

    #[test]
    fn the_hierarchy_of_a_membership_is_found_among_the_mounts() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                         31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = parse("2:cpu,cpuacct:/m/web1\n3:pids:/\n0::/m/web1\n");
        let files: Vec<_> = found.iter().map(|m| procs_file(m, mountinfo)).collect();
        assert_eq!(
            files[0].as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu/m/web1/cgroup.procs"))
        );
        assert_eq!(files[1], None);
        assert_eq!(
            files[2].as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified/m/web1/cgroup.procs"))
        );
    }
}
