//! Capabilities by name (`capabilities(7)`).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Names of all capabilities, in the order of their numbers.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Capabilities that are dropped by default: they concern the host's kernel, clock, hardware, log and
/// security policy, which are in no namespace.
const USUALLY_DROPPED: [&str; 18] = [
    "DAC_READ_SEARCH",
    "LINUX_IMMUTABLE",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PACCT",
    "SYS_TIME",
    "MKNOD",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Capability, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Every capability.
    All,
    /// The capability with this name, without `CAP_`.
    One(&'static str),
}

/// Error of parsing a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a capability: use a name of capabilities(7), as net_admin or CAP_NET_ADMIN, or all"
)]
pub struct CapabilityError(String);

impl FromStr for Capability {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(Self::All);
        }
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = NAMES.into_iter().find(|name| *name == bare);
        known
            .map(Self::One)
            .ok_or_else(|| CapabilityError(text.to_owned()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(name) => write!(f, "CAP_{name}"),
        }
    }
}

super::as_text!(Capability);

/// Changes to the default capabilities of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Capabilities {
    /// Capability that root inside may have beside the usual, as net_admin; or all
    #[arg(long = "cap-add", value_name = "CAPABILITY", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Capability>,
    /// Capability that nobody inside can have; or all
    #[arg(long = "cap-drop", value_name = "CAPABILITY", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<Capability>,
}

impl Capabilities {
    /// Returns whether nothing is changed; then it is not written to files.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the capabilities that nobody inside can have, without `CAP_`. A name overrides `all`: a
    /// capability added by name is kept even if all are dropped, and one dropped by name is dropped even
    /// if all are added.
    #[must_use]
    pub fn dropped(&self) -> BTreeSet<&'static str> {
        let names = |list: &[Capability]| -> BTreeSet<&'static str> {
            let one = |capability: &Capability| match capability {
                Capability::All => None,
                Capability::One(name) => Some(*name),
            };
            list.iter().filter_map(one).collect()
        };
        let mut dropped: BTreeSet<&str> = match self.add.contains(&Capability::All) {
            true => BTreeSet::new(),
            false => USUALLY_DROPPED.into_iter().collect(),
        };
        match self.drop.contains(&Capability::All) {
            true => dropped.extend(NAMES),
            false => dropped.extend(names(&self.drop)),
        }
        for name in names(&self.add) {
            dropped.remove(name);
        }
        dropped
    }

    /// Returns the capabilities that are dropped by default but were added.
    #[must_use]
    pub fn granted(&self) -> BTreeSet<&'static str> {
        let dropped = self.dropped();
        let usual = USUALLY_DROPPED.into_iter();
        usual.filter(|name| !dropped.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &str, drop: &str) -> Capabilities {
        let list = |text: &str| {
            let words = text.split(' ').filter(|word| !word.is_empty());
            words.map(|word| word.parse().unwrap()).collect()
        };
        Capabilities {
            add: list(add),
            drop: list(drop),
        }
    }

    #[test]
    fn what_is_said_by_name_wins() {
        let usual = of("", "").dropped();
        assert!(usual.contains("SYS_TIME") && !usual.contains("SYS_ADMIN"));
        assert!(!of("sys_time", "").dropped().contains("SYS_TIME"));
        assert_eq!(
            of("cap_chown NET_RAW", "all").dropped().len(),
            NAMES.len() - 2
        );
        assert!(of("all", "").dropped().is_empty());
        assert_eq!(
            of("all", "BPF").dropped().into_iter().collect::<Vec<_>>(),
            ["BPF"]
        );
        assert_eq!(
            of("SYS_TIME", "").granted().into_iter().collect::<Vec<_>>(),
            ["SYS_TIME"]
        );
        let error = "net-admin".parse::<Capability>().unwrap_err().to_string();
        assert!(error.contains("'net-admin'"), "{error}");
    }
}
