//! `Condition…=` and `Assert…=`: systemd.unit(5), "Conditions and Asserts".
//!
//! A unit with an unmet condition stays inactive without any message, so [`unmet`] finds those that
//! can be evaluated before the sandbox exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::facts::unit::load::root::chase;
use crate::facts::unit::syntax::parse_bool;
use crate::sys::path::below;

/// Consequence of a failed check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// `Condition…=`: systemd skips the unit silently.
    Condition,
    /// `Assert…=`: the start fails.
    Assert,
}

/// One `Condition…=` or `Assert…=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Condition or assertion.
    pub severity: Severity,
    /// `!`: the result of the check is negated.
    pub negated: bool,
    /// `|`: one of all such conditions must be met.
    pub triggering: bool,
    /// The check itself.
    pub check: Check,
}

/// Subject of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The path exists.
    PathExists(PathBuf),
    /// The path is a directory.
    PathIsDirectory(PathBuf),
    /// The path is a file that is not empty.
    FileNotEmpty(PathBuf),
    /// The path is a directory that is not empty.
    DirectoryNotEmpty(PathBuf),
    /// `yes`, `no`, `vm`, `container` or the name of a technology.
    Virtualization(String),
    /// The capability is in the service manager's bounding set.
    Capability(String),
    /// The kernel module is loaded or built in.
    KernelModuleLoaded(String),
    /// Any other check, not evaluated.
    Other {
        /// The key without `Condition` or `Assert`.
        key: String,
        /// Value.
        value: String,
    },
}

/// Machine that conditions are evaluated for.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// Root directory of the machine.
    pub root: &'a Path,
    /// Virtualization, as reported by systemd-detect-virt(1) there.
    pub virtualization: Virtualization,
    /// The bounding set; `None` if it is not known.
    pub capabilities: Option<&'a BTreeSet<String>>,
    /// The modules of the kernel, loaded or built in; `None` if they are not known.
    pub modules: Option<&'a BTreeSet<String>>,
}

/// Virtualization technology, by its name in systemd-detect-virt(1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Virtualization {
    /// Bare metal.
    None,
    /// A virtual machine: `kvm`, `qemu`.
    Vm(String),
    /// A container: `lxc-libvirt`.
    Container(String),
}

impl Condition {
    /// Parses a setting of the `[Unit]` section; returns `None` if it is not a condition.
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

    /// Returns whether the condition is met, or `None` if that is unknown.
    pub fn evaluate(&self, machine: &Machine<'_>) -> Option<bool> {
        Some(self.check.evaluate(machine)? != self.negated)
    }

    /// Returns the path that is checked.
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

/// Formats the condition as in a unit file, for messages.
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
    fn evaluate(&self, machine: &Machine<'_>) -> Option<bool> {
        let real = |path: &Path| {
            chase(machine.root, path)
                .ok()
                .map(|path| below(machine.root, &path))
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
            Self::Virtualization(wanted) => return machine.virtualization.is(wanted),
            Self::Capability(name) => machine.capabilities?.contains(&name.to_ascii_uppercase()),
            // The kernel lists modules with `_`, also if the file name has `-`.
            Self::KernelModuleLoaded(name) => machine.modules?.contains(&name.replace('-', "_")),
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
            // User namespaces are not known here.
            ("private-users", _) => return None,
            ("vm", Self::Vm(_)) | ("container", Self::Container(_)) => true,
            (name, Self::Vm(own) | Self::Container(own)) => name == own,
            (_, Self::None) => false,
        })
    }
}

/// Returns the conditions that keep a unit from starting; unknown results count as met.
///
/// If none of the triggering conditions is met, all of them are returned.
pub fn unmet<'a>(conditions: &'a [Condition], machine: &Machine<'_>) -> Vec<&'a Condition> {
    let is = |condition: &&Condition, met| condition.evaluate(machine) == Some(met);
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
        let machine = Machine {
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
            assert_eq!(condition.evaluate(&machine), met, "{key}={value}");
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
        let machine = Machine {
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
            unmet(&conditions, &machine)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(unmet_of(&["|/none", "|/etc"]), [""; 0]);
        assert_eq!(unmet_of(&["|/none", "|/none2", "/etc"]).len(), 2);
        assert_eq!(unmet_of(&["|/etc", "/none"]), ["ConditionPathExists=/none"]);
    }
}
