//! `Condition…=` and `Assert…=`: systemd.unit(5), "Conditions and Asserts".
//!
//! An unmet condition makes a unit stay inactive without any message, so those that can be told
//! before a sandbox is made are: see [`unmet`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::facts::unit::load::root::{chase, within};
use crate::facts::unit::syntax::parse_bool;

/// What happens when a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// `Condition…=`: the unit is skipped in silence.
    Condition,
    /// `Assert…=`: the start fails.
    Assert,
}

/// One `Condition…=` or `Assert…=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is a condition or an assertion.
    pub severity: Severity,
    /// `!`: it is met when the check is not.
    pub negated: bool,
    /// `|`: of all such conditions one has to be met.
    pub triggering: bool,
    /// What is checked.
    pub check: Check,
}

/// What a condition checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Something is at the path.
    PathExists(PathBuf),
    /// A directory is at the path.
    PathIsDirectory(PathBuf),
    /// A file that is not empty is at the path.
    FileNotEmpty(PathBuf),
    /// A directory that is not empty is at the path.
    DirectoryNotEmpty(PathBuf),
    /// `yes`, `no`, `vm`, `container` or the name of a technology.
    Virtualization(String),
    /// A capability of the service manager's bounding set.
    Capability(String),
    /// A module the kernel has loaded or built in.
    KernelModuleLoaded(String),
    /// Any other.
    Other {
        /// The key without `Condition` or `Assert`.
        key: String,
        /// Its value.
        value: String,
    },
}

/// The machine that the conditions are checked against.
#[derive(Debug, Clone)]
pub struct World<'a> {
    /// The root directory of it.
    pub root: &'a Path,
    /// What `systemd-detect-virt` says there.
    pub virtualization: Virtualization,
    /// The bounding set; `None` if it is not known.
    pub capabilities: Option<&'a BTreeSet<String>>,
    /// The modules of the kernel, loaded or built in; `None` if they are not known.
    pub modules: Option<&'a BTreeSet<String>>,
}

/// What a machine runs on, with the name systemd-detect-virt(1) gives to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Virtualization {
    /// On itself.
    None,
    /// On a virtual machine: `kvm`, `qemu`.
    Vm(String),
    /// In a container: `lxc-libvirt`.
    Container(String),
}

impl Condition {
    /// Reads a key of the `[Unit]` section; `None` if it is no condition.
    pub fn parse(key: &str, value: &str) -> Option<Self> {
        let (severity, key) = match key.strip_prefix("Condition") {
            Some(key) => (Severity::Condition, key),
            None => (Severity::Assert, key.strip_prefix("Assert")?),
        };
        // Both marks may be there, in this order.
        let (triggering, value) = strip_mark(value, '|');
        let (negated, value) = strip_mark(value, '!');
        let check = match key {
            "PathExists" => Check::PathExists(value.into()),
            "PathIsDirectory" => Check::PathIsDirectory(value.into()),
            "FileNotEmpty" => Check::FileNotEmpty(value.into()),
            "DirectoryNotEmpty" => Check::DirectoryNotEmpty(value.into()),
            "Virtualization" => Check::Virtualization(value.to_owned()),
            "Capability" => Check::Capability(value.to_owned()),
            "KernelModuleLoaded" => Check::KernelModuleLoaded(value.to_owned()),
            _ => Check::Other {
                key: key.to_owned(),
                value: value.to_owned(),
            },
        };
        Some(Self {
            severity,
            negated,
            triggering,
            check,
        })
    }

    /// Whether it is met; `None` if that cannot be told.
    pub fn evaluate(&self, world: &World<'_>) -> Option<bool> {
        Some(self.check.evaluate(world)? != self.negated)
    }

    /// The path it looks at.
    pub fn path(&self) -> Option<&Path> {
        match &self.check {
            Check::PathExists(path)
            | Check::PathIsDirectory(path)
            | Check::FileNotEmpty(path)
            | Check::DirectoryNotEmpty(path) => Some(path),
            Check::Virtualization(_)
            | Check::Capability(_)
            | Check::KernelModuleLoaded(_)
            | Check::Other { .. } => None,
        }
    }
}

/// As in a unit file, so that a message can name it.
impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Condition => "Condition",
            Severity::Assert => "Assert",
        };
        let (key, value) = match &self.check {
            Check::PathExists(path) => ("PathExists", path.to_string_lossy()),
            Check::PathIsDirectory(path) => ("PathIsDirectory", path.to_string_lossy()),
            Check::FileNotEmpty(path) => ("FileNotEmpty", path.to_string_lossy()),
            Check::DirectoryNotEmpty(path) => ("DirectoryNotEmpty", path.to_string_lossy()),
            Check::Virtualization(value) => ("Virtualization", value.into()),
            Check::Capability(value) => ("Capability", value.into()),
            Check::KernelModuleLoaded(value) => ("KernelModuleLoaded", value.into()),
            Check::Other { key, value } => (key.as_str(), value.into()),
        };
        let triggering = if self.triggering { "|" } else { "" };
        let negated = if self.negated { "!" } else { "" };
        write!(f, "{severity}{key}={triggering}{negated}{value}")
    }
}

fn strip_mark(value: &str, mark: char) -> (bool, &str) {
    match value.strip_prefix(mark) {
        Some(rest) => (true, rest.trim_start()),
        None => (false, value),
    }
}

impl Check {
    fn evaluate(&self, world: &World<'_>) -> Option<bool> {
        let real = |path: &Path| {
            chase(world.root, path)
                .ok()
                .map(|path| within(world.root, &path))
        };
        Some(match self {
            Self::PathExists(path) => real(path).is_some(),
            Self::PathIsDirectory(path) => real(path).is_some_and(|path| path.is_dir()),
            Self::FileNotEmpty(path) => real(path)
                .and_then(|path| fs::metadata(path).ok())
                .is_some_and(|meta| meta.is_file() && meta.len() > 0),
            Self::DirectoryNotEmpty(path) => real(path)
                .and_then(|path| fs::read_dir(path).ok())
                .is_some_and(|mut entries| entries.next().is_some()),
            Self::Virtualization(wanted) => return world.virtualization.is(wanted),
            Self::Capability(name) => world.capabilities?.contains(&name.to_ascii_uppercase()),
            // The kernel lists modules with `_` whatever the file is called.
            Self::KernelModuleLoaded(name) => world.modules?.contains(&name.replace('-', "_")),
            Self::Other { .. } => return None,
        })
    }
}

impl Virtualization {
    fn is(&self, wanted: &str) -> Option<bool> {
        if let Some(any) = parse_bool(wanted) {
            return Some((*self != Self::None) == any);
        }
        Some(match (wanted, self) {
            // Of user namespaces nothing is known here.
            ("private-users", _) => return None,
            ("vm", Self::Vm(_)) | ("container", Self::Container(_)) => true,
            (name, Self::Vm(own) | Self::Container(own)) => name == own,
            (_, Self::None) => false,
        })
    }
}

/// The conditions that keep a unit from starting; those that cannot be told are not among them.
///
/// Of the triggering ones all are given if none of them is met.
pub fn unmet<'a>(conditions: &'a [Condition], world: &World<'_>) -> Vec<&'a Condition> {
    let is = |condition: &&Condition, met| condition.evaluate(world) == Some(met);
    let mut unmet: Vec<&Condition> = conditions
        .iter()
        .filter(|c| !c.triggering)
        .filter(|c| is(c, false))
        .collect();
    for severity in [Severity::Condition, Severity::Assert] {
        let one_of: Vec<&Condition> = conditions
            .iter()
            .filter(|c| c.triggering && c.severity == severity)
            .collect();
        if one_of.iter().all(|c| is(c, false)) {
            unmet.extend(one_of);
        }
    }
    unmet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::unit::fixture::Host;

    #[test]
    fn conditions_are_checked() {
        let host = Host::new();
        host.file("etc/full", "x")
            .file("etc/empty", "")
            .link("etc/abs", "/etc/full")
            .link("etc/gone", "/none");
        let capabilities = BTreeSet::from(["CAP_NET_ADMIN".to_owned()]);
        let modules = BTreeSet::from(["nf_tables".to_owned()]);
        let world = World {
            root: host.root(),
            virtualization: Virtualization::Container("lxc-libvirt".into()),
            capabilities: Some(&capabilities),
            modules: Some(&modules),
        };
        let cases = [
            ("ConditionPathExists", "/etc/full", Some(true)),
            ("ConditionPathExists", "!/etc/full", Some(false)),
            ("ConditionPathExists", "|! /none", Some(true)),
            ("ConditionPathExists", "/etc/gone", Some(false)),
            ("AssertPathIsDirectory", "/etc", Some(true)),
            ("ConditionPathIsDirectory", "/etc/full", Some(false)),
            ("ConditionFileNotEmpty", "/etc/abs", Some(true)),
            ("ConditionFileNotEmpty", "/etc/empty", Some(false)),
            ("ConditionDirectoryNotEmpty", "/etc", Some(true)),
            (
                "ConditionDirectoryNotEmpty",
                "/usr/lib/systemd/system",
                Some(false),
            ),
            ("ConditionVirtualization", "!container", Some(false)),
            ("ConditionVirtualization", "no", Some(false)),
            ("ConditionVirtualization", "vm", Some(false)),
            ("ConditionVirtualization", "lxc-libvirt", Some(true)),
            ("ConditionVirtualization", "private-users", None),
            ("ConditionCapability", "CAP_SYS_TIME", Some(false)),
            ("ConditionCapability", "cap_net_admin", Some(true)),
            ("ConditionKernelModuleLoaded", "nf-tables", Some(true)),
            ("ConditionACPower", "true", None),
        ];
        for (key, value, met) in cases {
            let condition = Condition::parse(key, value).unwrap();
            assert_eq!(condition.evaluate(&world), met, "{key}={value}");
            assert_eq!(
                condition.to_string(),
                format!("{key}={}", value.replace(' ', ""))
            );
        }
        assert_eq!(Condition::parse("Description", "x"), None);
    }

    #[test]
    fn of_the_triggering_ones_one_is_enough() {
        let host = Host::new();
        let world = World {
            root: host.root(),
            virtualization: Virtualization::None,
            capabilities: None,
            modules: None,
        };
        let unmet_of = |values: &[&str]| {
            let conditions: Vec<_> = values
                .iter()
                .map(|v| Condition::parse("ConditionPathExists", v).unwrap())
                .collect();
            unmet(&conditions, &world)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(unmet_of(&["|/none", "|/etc"]), [""; 0]);
        assert_eq!(unmet_of(&["|/none", "|/none2", "/etc"]).len(), 2);
        assert_eq!(unmet_of(&["|/etc", "/none"]), ["ConditionPathExists=/none"]);
    }
}
