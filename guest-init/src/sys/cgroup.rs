//! Cgroups of a process, from the tables of the kernel (`cgroups(7)`). Pure.

use std::path::{Path, PathBuf};

use super::mountinfo::MountInfo;

/// Group of the controller process of a domain, below the group of the domain: a group with controllers for its children has no
/// processes (`cgroups(7)`). libvirt uses this name for its virtual machines, and finds a domain by it (`vircgroupv2.c`).
pub const EMULATOR: &str = "emulator";

/// Limit of the memory of sockets in version 1, whose memory limit does not count it (the kernel's
/// Documentation/admin-guide/cgroup-v1/memory.rst, 2.7). That of version 2 does.
pub const SOCKET_MEMORY: &str = "memory.kmem.tcp.limit_in_bytes";

/// Threads that the kernel of a virtual machine may have beside those of its payload: `kernel.threads-max` counts both
/// (proc_sys_kernel(5)).
pub const KERNEL_THREADS: u64 = 1024;

/// Returns the limit of the memory of sockets in a group with this memory limit: a quarter of it, in addition.
#[must_use]
pub const fn socket_memory(memory: u64) -> u64 {
    memory / 4
}

/// A line of `/proc/PID/cgroup` (`cgroups(7)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Controllers of a version 1 hierarchy, as mount options; empty for version 2.
    pub controllers: String,
    /// Path of the cgroup from the root of the hierarchy.
    pub path: PathBuf,
}

impl Membership {
    /// Returns whether this is the unified hierarchy.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Returns the group of the whole domain in a unified hierarchy: the one that libvirt has named, in a scope of systemd or elsewhere.
    /// [`EMULATOR`] below it belongs to it. Other groups are shared with other processes.
    #[must_use]
    pub fn domain_group(&self) -> Option<&Path> {
        let is_part = self.path.ends_with(EMULATOR);
        let group = if is_part {
            self.path.parent()?
        } else {
            &self.path
        };
        let name = group.file_name()?.to_str()?;
        (self.is_unified() && (name == "libvirt" || name.ends_with(".libvirt-lxc")))
            .then_some(group)
    }

    /// Returns whether this is the hierarchy of a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }
}

/// Parses `/proc/PID/cgroup`.
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

/// Returns the file that moves processes to the cgroup of `membership`, if its hierarchy is among the `mounts`.
#[must_use]
pub fn procs_file(membership: &Membership, mounts: &[MountInfo]) -> Option<PathBuf> {
    mounts.iter().find_map(|mount| {
        let is_it = if membership.is_unified() {
            mount.filesystem == "cgroup2"
        } else {
            let mut wanted = membership.controllers.split(',');
            mount.filesystem == "cgroup" && wanted.all(|name| mount.has_option(name))
        };
        let group = membership.path.strip_prefix(&mount.root).ok();
        Some(
            mount
                .point
                .join(group.filter(|_| is_it)?)
                .join("cgroup.procs"),
        )
    })
}

/// Returns the files that move a process from the groups `own` to the groups `wanted`.
///
/// # Errors
/// A group with limits whose hierarchy is not mounted: the process would keep the limits of its own group instead.
pub fn procs_files<'a>(
    wanted: &'a [Membership],
    own: &[Membership],
    mounts: &[MountInfo],
) -> Result<Vec<PathBuf>, &'a Membership> {
    let has_controllers =
        |one: &Membership| !one.is_unified() && !one.controllers.starts_with("name=");
    // The unified hierarchy has the controllers that no other hierarchy has.
    let is_unified_alone = !wanted.iter().any(has_controllers);
    let bounds = |one: &Membership| has_controllers(one) || (one.is_unified() && is_unified_alone);
    let others = wanted.iter().filter(|one| !own.contains(one));
    others
        .filter_map(|one| match procs_file(one, mounts) {
            Some(file) => Some(Ok(file)),
            None => bounds(one).then_some(Err(one)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mountinfo;

    #[test]
    fn memberships_of_both_versions_are_parsed() {
        let found =
            parse("9:name=systemd:/\n8:pids:/user:odd\n1:cpu,cpuacct:/x\n0::/machine/web1\n");
        assert_eq!(found.len(), 4);
        assert!(found[1].has("pids") && found[1].path == Path::new("/user:odd"));
        assert!(found[2].has("cpuacct") && !found[2].has("cp"));
        assert!(found[3].is_unified() && !found[0].is_unified());
    }

    #[test]
    fn the_group_of_a_domain_is_distinguished_from_shared_ones() {
        let group = |text: &str| parse(text)[0].domain_group().map(Path::to_owned);
        let scope = "/machine.slice/machine-lxc-1-web1.scope/libvirt";
        assert_eq!(group(&format!("0::{scope}")), Some(scope.into()));
        assert_eq!(group(&format!("0::{scope}/emulator")), Some(scope.into()));
        let partition = "/machine/lxc-1-web1.libvirt-lxc";
        assert_eq!(group(&format!("0::{partition}")), Some(partition.into()));
        assert_eq!(group("0::/system.slice/libvirtd.service"), None);
        assert_eq!(group(&format!("4:memory:{partition}")), None);
        assert_eq!(group("0::/"), None);
    }

    #[test]
    fn a_group_with_limits_is_never_left_out() {
        let memory = "30 24 0:26 / /m rw,nosuid - cgroup cgroup rw,memory\n";
        let unified = "31 24 0:27 / /u rw - cgroup2 cgroup2 rw\n";
        let move_to = |wanted: &str, mounted: &str| {
            let (wanted, own) = (parse(wanted), parse("4:memory:/\n3:pids:/\n0::/user\n"));
            let mounts = mountinfo::parse(mounted.as_bytes());
            super::procs_files(&wanted, &own, &mounts).map_err(|one| one.controllers.clone())
        };
        let both = "4:memory:/web1\n0::/web1\n";
        let found = move_to(both, &format!("{memory}{unified}")).unwrap();
        assert_eq!(
            found,
            [
                Path::new("/m/web1/cgroup.procs"),
                Path::new("/u/web1/cgroup.procs")
            ]
        );
        assert_eq!(move_to(both, unified), Err("memory".to_owned()));
        assert_eq!(move_to("0::/web1\n", memory), Err(String::new()));
        // A group without controllers, and one of our own.
        assert_eq!(move_to(both, memory).unwrap().len(), 1);
        let others = "9:name=systemd:/web1\n3:pids:/\n0::/web1\n";
        assert!(move_to(others, "").unwrap().is_empty());
    }

    #[test]
    fn the_hierarchy_of_a_membership_is_found_among_the_mounts() {
        let mounts = b"30 24 0:26 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                       31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mounts = mountinfo::parse(mounts);
        let found = parse("2:cpu,cpuacct:/m/web1\n3:pids:/\n0::/m/web1\n");
        let files: Vec<_> = found.iter().map(|m| procs_file(m, &mounts)).collect();
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
