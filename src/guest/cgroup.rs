//! What a sandbox leaves behind in the cgroup hierarchies that libvirt does not keep: its first process made a group of its
//! own there, which it cannot remove itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use guest_init::membership::{self, EMULATOR, Membership};
use nix::errno::Errno;

use crate::config::SandboxName;

/// How often processes are looked for that have come into a group while others were moved out of it.
const MOVES: u32 = 100;

/// How deep libvirt and systemd put a domain.
const DEEPEST: usize = 6;

/// Removes the empty groups of a sandbox. Groups with processes in them stay: the kernel refuses.
pub fn remove(name: &SandboxName) {
    let group = format!("virt-sandbox-{name}");
    for group in named(hierarchies(), |name| name == group) {
        remove_groups(&group);
    }
}

/// The groups of virtual machines whose libvirt is in a client; `is_of` knows their names.
pub fn embedded(is_of: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    named(mounted(|_| true), is_of)
}

/// The groups in these hierarchies, no deeper than a domain's, whose name `is_wanted`.
fn named(hierarchies: Vec<PathBuf>, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = hierarchies
        .into_iter()
        .flat_map(|hierarchy| walkdir::WalkDir::new(hierarchy).max_depth(DEEPEST))
        .flatten();
    entries
        .filter(|entry| entry.file_type().is_dir())
        .filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted))
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// The processes in a group, and in those below it.
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

/// The groups that the first process of a sandbox has made, for as long as it lives.
#[must_use]
pub fn of_process(pid: u32, name: &SandboxName) -> Vec<PathBuf> {
    let group = format!("virt-sandbox-{name}");
    groups(&pid.to_string())
        .into_iter()
        .filter(|path| path.ends_with(&group))
        .collect()
}

/// The group that counts and bounds the processes of a sandbox, told by one of them: its own group, or in a unified hierarchy,
/// where that is the sandbox's to change, one of libvirt's above it.
#[must_use]
pub fn counting_processes(pid: u32, name: &SandboxName) -> Option<PathBuf> {
    let group = format!("virt-sandbox-{name}");
    let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own: Vec<&Path> = memberships
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter_map(|path| {
            Path::new(path)
                .ancestors()
                .find(|path| path.ends_with(&group))
        })
        .filter_map(|path| path.strip_prefix("/").ok())
        .collect();
    let groups = hierarchies().into_iter().flat_map(|hierarchy| {
        let is_unified = hierarchy.join("cgroup.controllers").exists();
        let counting = |path: &&'_ Path| match (is_unified, path.parent()) {
            (false, _) => vec![hierarchy.join(path)],
            (true, Some(group)) => domain_groups(&hierarchy.join(group)),
            (true, None) => vec![],
        };
        own.iter().flat_map(counting).collect::<Vec<_>>()
    });
    groups
        .into_iter()
        .find(|group| group.join("pids.max").exists())
}

/// The groups of a domain in a unified hierarchy, the outermost first: libvirt's own, and the scope of systemd's it may be in. Those
/// above are shared with others.
fn domain_groups(group: &Path) -> Vec<PathBuf> {
    let scope = group.parent().filter(|_| group.ends_with("libvirt"));
    let groups = [scope, Some(group)].into_iter().flatten();
    groups.map(Path::to_owned).collect()
}

/// Lets a sandbox bound what runs in it: the processes that keep it, of which `controller` is one, leave the group of the domain
/// for one below, and then that group gives its controllers to the others below (`cgroups(7)`, "no internal processes"). Where the
/// domain has no group of its own in a unified hierarchy there is nothing to do.
///
/// # Errors
/// Where the kernel refuses.
pub fn share_controllers(controller: u32) -> io::Result<()> {
    let text = fs::read_to_string(format!("/proc/{controller}/cgroup"))?;
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    let shared = membership::parse(&text).iter().find_map(|membership| {
        let path = membership.domain_group()?.to_owned();
        let group = Membership {
            path,
            ..membership.clone()
        };
        Some(
            membership::procs_file(&group, &mounted)?
                .parent()?
                .to_owned(),
        )
    });
    let Some(group) = shared else { return Ok(()) };
    if let [scope, _] = domain_groups(&group).as_slice() {
        // libvirt does not know of the controller that counts processes. A hierarchy may have none.
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
            // It may have ended, or gone on by itself.
            let _ = fs::write(emulator.join("cgroup.procs"), pid);
        }
        match fs::write(group.join("cgroup.subtree_control"), &wanted) {
            // A process has come meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && tries < MOVES => {
                tries += 1
            }
            done => return done,
        }
    }
}

/// Takes a process into the groups that we are in.
///
/// # Errors
/// Where the kernel refuses.
pub fn adopt(pid: u32) -> io::Result<()> {
    let theirs = groups(&pid.to_string());
    for ours in groups("self") {
        if !theirs.contains(&ours) {
            fs::write(ours.join("cgroup.procs"), pid.to_string())?;
        }
    }
    Ok(())
}

/// The groups of a process, in every hierarchy that is mounted.
fn groups(process: &str) -> Vec<PathBuf> {
    let memberships = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    membership::parse(&memberships)
        .iter()
        .filter_map(|membership| membership::procs_file(membership, &mounted))
        .filter_map(|file| Some(file.parent()?.to_owned()))
        .collect()
}

/// Removes groups that are empty by now; `false` if one is not.
#[must_use]
pub fn remove_all(groups: &[PathBuf]) -> bool {
    groups.iter().for_each(|group| remove_groups(group));
    !groups.iter().any(|group| group.exists())
}

/// Mount points of the hierarchies a sandbox makes groups in.
fn hierarchies() -> Vec<PathBuf> {
    let has_pids = |filesystem: &str| filesystem.split([' ', ',']).any(|word| word == "pids");
    mounted(|filesystem| filesystem.starts_with("cgroup2 ") || has_pids(filesystem))
}

/// Mount points of the hierarchies whose type and options are `wanted`.
fn mounted(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let kind = filesystem.split(' ').next()?;
            let is_ours = ["cgroup", "cgroup2"].contains(&kind) && wanted(filesystem);
            is_ours
                .then(|| mount.split(' ').nth(4).map(PathBuf::from))
                .flatten()
        })
        .collect()
}

/// A group can be removed once it has none below (`cgroups(7)`).
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
