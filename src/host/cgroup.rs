//! Cgroups of sandboxes, including those that libvirt does not manage: the first process of a sandbox creates
//! a group of its own, which it cannot remove itself.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest_init::sys::cgroup::{self, EMULATOR, Membership};
use guest_init::sys::mountinfo::{self, MountInfo};
use nix::errno::Errno;

use crate::config::SandboxName;

/// Maximum number of rounds that move processes out of a group while new ones appear.
const MAX_ROUNDS: u32 = 100;

/// Maximum depth of a domain's group below libvirt and systemd.
const MAX_DEPTH: usize = 6;

/// Prefix of the group that a sandbox's first process creates. The sandbox controls everything below it.
const PREFIX: &str = "virt-sandbox-";

/// Removes the empty groups of a sandbox. The kernel refuses to remove groups with processes.
pub fn remove(name: &SandboxName) {
    for group in of_name(name) {
        remove_groups(&group);
    }
}

/// Returns the groups that the first process of a sandbox has created, of whatever run, found by their name.
#[must_use]
pub fn of_name(name: &SandboxName) -> Vec<PathBuf> {
    let group = format!("{PREFIX}{name}");
    find_named(hierarchies(), |name| name == group)
}

/// Returns the groups of virtual machines with an embedded libvirt; `is_of` recognizes their names.
pub fn find_embedded(is_of: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    find_named(mount_points(|_| true), is_of)
}

/// Returns the groups in the hierarchies, no deeper than a domain's, whose name `is_wanted`. Groups that
/// others control are skipped: those of sandboxes, and those that do not belong to root.
fn find_named(hierarchies: Vec<PathBuf>, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let (mut found, mut level) = (Vec::new(), hierarchies);
    for _ in 0..MAX_DEPTH {
        let below = level.iter().flat_map(|group| groups_below(group));
        let (wanted, others) = below.partition(|group| name(group).is_some_and(&is_wanted));
        let others: Vec<PathBuf> = others;
        found.extend::<Vec<PathBuf>>(wanted);
        level = others.into_iter().filter(|group| is_hosts(group)).collect();
    }
    found
}

fn groups_below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn name(group: &Path) -> Option<&str> {
    group.file_name().and_then(OsStr::to_str)
}

/// Returns whether only the host creates groups in this one.
fn is_hosts(group: &Path) -> bool {
    !name(group).is_some_and(|name| name.starts_with(PREFIX))
        && fs::symlink_metadata(group).is_ok_and(|metadata| metadata.uid() == 0)
}

/// Returns the processes in a group and below it.
#[must_use]
pub fn members(group: &Path) -> Vec<i32> {
    let below = walkdir::WalkDir::new(group).into_iter().flatten();
    below
        .filter(|entry| entry.file_type().is_dir())
        .filter_map(|entry| fs::read_to_string(entry.path().join("cgroup.procs")).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Returns the groups that the first process of a sandbox has created, found through its libvirt controller:
/// processes inside can move to groups that they have created and named, so their own membership says
/// nothing.
#[must_use]
pub fn of_sandbox(controller: u32, name: &SandboxName) -> Vec<PathBuf> {
    let groups = parents(controller).into_iter();
    let groups = groups.map(|(_, group)| group.join(format!("{PREFIX}{name}")));
    groups.filter(|group| group.is_dir()).collect()
}

/// Returns the group that counts and limits the processes of the sandbox with the controller process
/// `controller`: its own, or in a unified hierarchy, where the sandbox could change that, one of libvirt's
/// above it.
#[must_use]
pub fn pids_group(controller: u32, name: &SandboxName) -> Option<PathBuf> {
    let groups = parents(controller).into_iter();
    let mut groups = groups.flat_map(|(membership, group)| {
        match (membership.is_unified(), membership.domain_group()) {
            (false, _) => vec![group.join(format!("{PREFIX}{name}"))],
            (true, Some(_)) => enclosing_groups(&group),
            // The group is shared with others.
            (true, None) => vec![],
        }
    });
    groups.find(|group| group.join("pids.max").exists())
}

/// Returns the parent groups of the sandbox's own groups, by hierarchy: the domain's group if libvirt created
/// one, otherwise the group in which the controller was started.
fn parents(controller: u32) -> Vec<(Membership, PathBuf)> {
    let text = fs::read_to_string(format!("/proc/{controller}/cgroup")).unwrap_or_default();
    let mounted = mountinfo::read().unwrap_or_default();
    let found = cgroup::parse(&text).into_iter().filter_map(|membership| {
        let path = membership.domain_group().unwrap_or(&membership.path);
        let domain = Membership {
            path: path.to_owned(),
            ..membership
        };
        let file = cgroup::procs_file(&domain, &mounted)?;
        Some((domain, file.parent()?.to_owned()))
    });
    found
        .filter(|(membership, _)| membership.is_unified() || membership.has("pids"))
        .collect()
}

/// Returns the groups of a domain in a unified hierarchy, the outermost first: libvirt's own, and the systemd
/// scope around it. Groups above them are shared with others.
fn enclosing_groups(group: &Path) -> Vec<PathBuf> {
    let scope = group.parent().filter(|_| group.ends_with("libvirt"));
    let groups = [scope, Some(group)].into_iter().flatten();
    groups.map(Path::to_owned).collect()
}

/// Enables the domain's controllers for the groups below it, so that a sandbox can limit its processes. First
/// the processes of the domain's group, including `controller`, move to a child group (`cgroups(7)`, "no
/// internal processes"). Does nothing if the domain has no group of its own in a unified hierarchy.
pub fn delegate_controllers(controller: u32) -> io::Result<()> {
    let is_own = |membership: &Membership| membership.domain_group().is_some();
    let mut groups = parents(controller).into_iter();
    let Some((_, group)) = groups.find(|(membership, _)| is_own(membership)) else {
        return Ok(());
    };
    if let [scope, _] = enclosing_groups(&group).as_slice() {
        // libvirt ignores the pids controller. A hierarchy may lack it.
        let _ = fs::write(scope.join("cgroup.subtree_control"), "+pids");
    }
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    if controllers.trim().is_empty() {
        return Ok(());
    }
    let emulator = group.join(EMULATOR);
    fs::create_dir_all(&emulator)?;
    let wanted: String = controllers
        .split_whitespace()
        .map(|name| format!("+{name} "))
        .collect();
    let mut tries = 0;
    loop {
        for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
            // The process may have ended, or moved by itself.
            let _ = fs::write(emulator.join("cgroup.procs"), pid);
        }
        match fs::write(group.join("cgroup.subtree_control"), &wanted) {
            // A new process appeared meanwhile.
            Err(error)
                if error.raw_os_error() == Some(Errno::EBUSY as i32) && tries < MAX_ROUNDS =>
            {
                tries += 1
            }
            done => return done,
        }
    }
}

/// Limits the socket buffers of the sandbox with the controller process `controller`, if its memory limit
/// does not count them.
pub fn limit_sockets(controller: u32, memory: u64) -> io::Result<()> {
    let groups = groups(&controller.to_string()).into_iter();
    let mut files = groups.map(|group| group.join(cgroup::SOCKET_MEMORY));
    match files.find(|file| file.exists()) {
        Some(file) => fs::write(file, cgroup::socket_memory(memory).to_string()),
        None => Ok(()),
    }
}

/// Moves a process to the groups of the calling process.
pub fn join_own_groups(pid: u32) -> io::Result<()> {
    let theirs = groups(&pid.to_string());
    for ours in groups("self") {
        if !theirs.contains(&ours) {
            fs::write(ours.join("cgroup.procs"), pid.to_string())?;
        }
    }
    Ok(())
}

/// Returns the groups of a process in every mounted hierarchy.
fn groups(process: &str) -> Vec<PathBuf> {
    let memberships = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mounted = mountinfo::read().unwrap_or_default();
    cgroup::parse(&memberships)
        .iter()
        .filter_map(|membership| cgroup::procs_file(membership, &mounted))
        .filter_map(|file| Some(file.parent()?.to_owned()))
        .collect()
}

/// Removes groups that are empty by now; `false` if one is left.
#[must_use]
pub fn remove_all(groups: &[PathBuf]) -> bool {
    groups.iter().for_each(|group| remove_groups(group));
    !groups.iter().any(|group| group.exists())
}

/// Returns the mount points of the hierarchies in which sandboxes create groups.
fn hierarchies() -> Vec<PathBuf> {
    mount_points(|mount| mount.filesystem == "cgroup2" || mount.has_option("pids"))
}

/// Returns the mount points of the hierarchies that are `wanted`.
fn mount_points(wanted: impl Fn(&MountInfo) -> bool) -> Vec<PathBuf> {
    let mounts = mountinfo::read().unwrap_or_default().into_iter();
    mounts
        .filter(|mount| ["cgroup", "cgroup2"].contains(&mount.filesystem.as_str()))
        .filter(wanted)
        .map(|mount| mount.point)
        .collect()
}

/// Removes a group and those below it, innermost first (`cgroups(7)`).
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn groups_are_looked_for_where_the_host_makes_them() {
        let root = tempfile::tempdir().unwrap();
        if root.path().metadata().unwrap().uid() != 0 {
            println!("SKIP: groups of the host are root's");
            return;
        }
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
        make("machine/lxc-1-a.libvirt-lxc/virt-sandbox-a/virt-sandbox-b");
        make("libvirtd.service/virt-sandbox-b/virt-sandbox-b");
        make("1/2/3/4/5/virt-sandbox-b");
        make("1/2/3/4/5/6/virt-sandbox-b");
        make("user/virt-sandbox-b");
        chown(root.path().join("user"), Some(1000), None).unwrap();
        let found = find_named(vec![root.path().to_owned()], |name| {
            name == "virt-sandbox-b"
        });
        let mut found: Vec<&Path> = found
            .iter()
            .map(|path| path.strip_prefix(root.path()).unwrap())
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                Path::new("1/2/3/4/5/virt-sandbox-b"),
                Path::new("libvirtd.service/virt-sandbox-b")
            ]
        );
    }
}
