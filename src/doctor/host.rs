//! Facts that sandboxes of both kinds depend on.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::{Check, Fact, Level, Subject};
use crate::facts::package;
use crate::host;
use crate::label::selinux;
use crate::service::Sandboxes;
use crate::service::store::Store;

/// Free space that a sandbox with a tree of its own needs, in bytes.
const FREE: u64 = 1 << 30;

/// Ending of the names of the host's units of sandboxes.
const UNIT: &str = "_sandbox.service";

pub(super) fn checks(root: &Path, sandboxes: &Sandboxes) -> Vec<Check> {
    let store = &sandboxes.store;
    let facts = [
        ("systemd", systemd()),
        ("security module", security_module(root)),
        ("packages", packages(root)),
        ("disk space", space(store)),
        ("left over", left_over(store)),
    ];
    let facts = facts.into_iter();
    facts
        .map(|(name, fact)| fact.check(Subject::Host, name))
        .collect()
}

fn systemd() -> Fact {
    match host::runs_systemd() {
        true => Fact::ok("runs this host, and can start sandboxes at boot"),
        false => Fact::limited(
            "does not run this host",
            "start sandboxes with 'virt-sandbox-service start'; nothing restarts them or starts them at boot",
        ),
    }
}

fn security_module(root: &Path) -> Fact {
    match host::has_security_module(root) {
        true if selinux::is_on() => Fact::ok("SELinux"),
        true => Fact::ok("AppArmor"),
        false => Fact::limited(
            "none: capabilities, ids and system calls alone confine containers",
            "boot the kernel with AppArmor or SELinux, and install libvirt's support of it",
        ),
    }
}

fn packages(root: &Path) -> Fact {
    match package::open(root) {
        Ok(Some(_)) => Fact::ok("the database is read"),
        Ok(None) => Fact::limited(
            "no known database: what belongs to a service is found by its units alone",
            "look at 'create --dry-run', and add what is missing with --include and --mount",
        ),
        Err(error) => Fact::unknown(Level::Limited, &error.into()),
    }
}

/// Judges the filesystem with the least space of those that hold sandboxes.
fn space(store: &Store) -> Fact {
    let places = [&store.trees, &store.stages, &store.configs];
    let free = places.into_iter().filter_map(|place| {
        // The directory may not exist yet.
        let existing = place.ancestors().find(|path| path.exists())?;
        let filesystem = statvfs(existing).ok()?;
        let bytes = filesystem.blocks_available() * filesystem.fragment_size();
        Some((bytes, place))
    });
    match free.min_by_key(|(bytes, _)| *bytes) {
        Some((bytes, place)) => {
            let state = format!("{} MiB free for '{}'", bytes >> 20, place.display());
            match bytes < FREE {
                true => Fact::limited(
                    state,
                    "make room, or put trees elsewhere with 'create --path'",
                ),
                false => Fact::ok(state),
            }
        }
        None => Fact::limited("no filesystem tells its free space", "look at 'df'"),
    }
}

/// Judges what is there of sandboxes that are not.
fn left_over(store: &Store) -> Fact {
    let names_in = |directory: &Path, ending: &str| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| {
            let name = entry.file_name();
            let name = name.as_bytes().strip_suffix(ending.as_bytes())?;
            String::from_utf8(name.to_vec()).ok()
        });
        names.collect()
    };
    let is_gone = |name: &&String| !store.configs.join(name.as_str()).exists();
    let units = names_in(&store.units, UNIT);
    let stages = names_in(&store.stages, "");
    let mut left: Vec<String> = units
        .iter()
        .filter(is_gone)
        .map(|name| format!("'{}'", store.units.join(format!("{name}{UNIT}")).display()))
        .collect();
    let stages = stages.iter().filter(is_gone);
    left.extend(stages.map(|name| format!("'{}'", store.stages.join(name).display())));
    left.sort();
    match left.is_empty() {
        true => Fact::ok("nothing"),
        false => Fact::limited(
            format!("{} of sandboxes that are gone", left.join(", ")),
            "remove them if no other tool made them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_stages_without_a_sandbox_are_left_over() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::below(root.path());
        for directory in [&store.configs, &store.units, &store.stages] {
            fs::create_dir_all(directory).unwrap();
        }
        for name in ["kept", "gone"] {
            fs::write(store.units.join(format!("{name}{UNIT}")), "").unwrap();
            fs::create_dir(store.stages.join(name)).unwrap();
        }
        fs::write(store.units.join("other.service"), "").unwrap();
        fs::create_dir(store.configs.join("kept")).unwrap();
        let fact = left_over(&store);
        assert_eq!(fact.level, Level::Limited);
        assert!(fact.state.contains("units/gone_sandbox.service"));
        assert!(fact.state.contains("stages/gone"));
        assert!(!fact.state.contains("kept"), "{}", fact.state);
        assert!(!fact.state.contains("other"), "{}", fact.state);
    }
}
