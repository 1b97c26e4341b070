//! Facts that containers depend on.

use std::fs;
use std::path::Path;

use uuid::Uuid;

use super::{Check, Fact, Level, Subject, libvirt};
use crate::domain::{Filesystem, SecModel};
use crate::driver::Driver;
use crate::error::Result;
use crate::guest;
use crate::guest::ids::{self, Registry};
use crate::hypervisor::Hypervisor;
use crate::label;
use crate::label::selinux::{self, Kind, Labels, Types};
use crate::service::Sandboxes;
use crate::service::store::Store;

/// Connection of containers.
const URI: &str = "lxc:///";

/// Controllers of cgroups that limits of sandboxes need, by their names in version 2.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

pub(super) fn checks(root: &Path, sandboxes: &Sandboxes) -> Vec<Check> {
    let (driver, hypervisor) = libvirt::driver(sandboxes, Driver::Lxc, URI);
    let cgroups = Cgroups::read(root);
    let mut facts = vec![
        ("libvirt's driver", driver),
        (
            "libvirt's version",
            libvirt::version(cgroups.version == Version::Two),
        ),
        ("cgroups", cgroups.judge()),
        ("ids of their own", own_ids(root, &sandboxes.store)),
    ];
    if let Some(hypervisor) = hypervisor {
        facts.push(("network", libvirt::network(&*hypervisor)));
        facts.push(("label", own_label(&*hypervisor)));
    }
    let facts = facts.into_iter();
    facts
        .map(|(name, fact)| fact.check(Subject::Containers, name))
        .collect()
}

/// Version of cgroups that a host mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    None,
    One,
    Two,
    Both,
}

/// Cgroups of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cgroups {
    version: Version,
    /// Missing controllers.
    missing: Vec<&'static str>,
}

impl Cgroups {
    fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        Self::parse(
            &text("proc/self/mountinfo"),
            &text("sys/fs/cgroup/cgroup.controllers"),
            &text("proc/cgroups"),
        )
    }

    /// Parses the table of mounts, the list of controllers of version 2, and `/proc/cgroups`.
    fn parse(mounts: &str, controllers: &str, table: &str) -> Self {
        let kinds: Vec<&str> = mounts.lines().filter_map(mountinfo_kind).collect();
        let version = match (kinds.contains(&"cgroup"), kinds.contains(&"cgroup2")) {
            (false, false) => Version::None,
            (true, false) => Version::One,
            (false, true) => Version::Two,
            (true, true) => Version::Both,
        };
        // Subsystem, hierarchy, number of groups, and whether it is enabled (cgroups(7)).
        let is_enabled = |name: &str| {
            let mut lines = table.lines();
            lines.any(|line| line.split_whitespace().next() == Some(name) && line.ends_with("\t1"))
        };
        let is_there = |name: &str| match (version, name) {
            (Version::Two, _) => controllers.split_whitespace().any(|own| own == name),
            (Version::None | Version::One | Version::Both, "io") => is_enabled("blkio"),
            (Version::None | Version::One | Version::Both, _) => is_enabled(name),
        };
        let missing = CONTROLLERS.into_iter().filter(|name| !is_there(name));
        Self {
            version,
            missing: missing.collect(),
        }
    }

    fn judge(&self) -> Fact {
        let version = match self.version {
            Version::None => {
                return Fact::missing(
                    "none are mounted",
                    "mount them at /sys/fs/cgroup, as systemd does",
                );
            }
            Version::One => "version 1",
            Version::Two => "version 2",
            Version::Both => "versions 1 and 2",
        };
        match self.missing.as_slice() {
            [] => Fact::ok(version),
            missing => Fact::limited(
                format!("{version}, without the controllers {}", missing.join(", ")),
                "enable them on the kernel's command line (cgroup_enable=); limits that need them do not work",
            ),
        }
    }
}

/// Returns the filesystem type of a line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mountinfo_kind(line: &str) -> Option<&str> {
    let (_, after) = line.split_once(" - ")?;
    after.split(' ').next()
}

/// Tries to map ids over the filesystems that a container has.
fn own_ids(root: &Path, store: &Store) -> Fact {
    match try_ids(root, store) {
        Ok(None) => Fact::ok("root inside is nobody on the host"),
        Ok(Some(reason)) => Fact::limited(
            format!("not possible: {reason}"),
            "root inside is the host's root; prefer virtual machines for what you do not trust",
        ),
        Err(error) => Fact::unknown(Level::Limited, &error),
    }
}

fn try_ids(root: &Path, store: &Store) -> Result<Option<String>> {
    let nobody = store.configs.join(".doctor");
    let registry = Registry::of(&[&store.configs]);
    let range = registry.preview(&nobody, Uuid::nil(), None)?;
    let trees = store.trees.ancestors().find(|path| path.exists());
    let filesystem = |source: &Path, target: &str, read_only| Filesystem {
        source: source.to_owned(),
        target: target.into(),
        read_only,
    };
    let filesystems = [
        filesystem(&root.join("usr"), "/host/usr", true),
        filesystem(trees.unwrap_or(root), "/host/var", false),
    ];
    ids::unsupported(&guest::find_init()?, range, &filesystems)
}

/// Judges the label that a container would get.
fn own_label(hypervisor: &dyn Hypervisor) -> Fact {
    let capabilities = match hypervisor.capabilities() {
        Ok(capabilities) => capabilities,
        Err(error) => return Fact::unknown(Level::Limited, &error),
    };
    match label::model(&capabilities) {
        Some(SecModel::SeLinux) => selinux_label(Kind::Container),
        Some(SecModel::AppArmor) => Fact::ok("AppArmor, a profile for each container"),
        None => Fact::limited(
            "libvirt uses no security module",
            "enable one in the kernel, and 'security_driver' in /etc/libvirt/lxc.conf",
        ),
    }
}

/// Judges whether the policy of SELinux has the types of a kind of sandbox.
pub(super) fn selinux_label(kind: Kind) -> Fact {
    let problem = |types: Types| Labels::new(&types, types.process.level(), None).unknown();
    match selinux::types(kind).map(problem) {
        Ok(None) => Fact::ok("SELinux, categories for each sandbox"),
        Ok(Some(problem)) => {
            Fact::missing(problem, "load the module, or a policy that has the type")
        }
        Err(error) => Fact::unknown(Level::Limited, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const ONE: &str = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const ALL: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
        cpuset\t1\t1\t1\ncpu\t2\t1\t1\nblkio\t3\t1\t1\nmemory\t0\t1\t0\npids\t5\t1\t1\n";

    #[test]
    fn controllers_of_both_versions_are_found() {
        let two = Cgroups::parse(TWO, "cpuset cpu io memory hugetlb pids\n", "");
        assert_eq!((two.version, two.missing), (Version::Two, vec![]));
        let hybrid = Cgroups::parse(&format!("{ONE}{TWO}"), "", ALL);
        assert_eq!(
            (hybrid.version, hybrid.missing),
            (Version::Both, vec!["memory"])
        );
    }

    #[test]
    fn a_host_without_cgroups_runs_no_container() {
        assert_eq!(Cgroups::parse("", "", "").judge().level, Level::Missing);
        let without_pids = Cgroups::parse(TWO, "cpuset cpu io memory", "").judge();
        assert_eq!(without_pids.level, Level::Limited);
        assert!(
            without_pids.state.contains("pids"),
            "{}",
            without_pids.state
        );
    }
}
