//! Trust of the administrator in an archive: the host resources that an import may grant.

use std::collections::BTreeSet;

use clap::ValueEnum;

/// Kind of host resource that an archive can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Trust {
    /// Files of its units and packages that not every user of the host may read, also at each upgrade
    Units,
    /// NICs on bridges, devices and networks but 'default', and static addresses
    Networks,
    /// Ports that the host answers on
    Ports,
    /// Directories of the host
    Mounts,
    /// Devices of the host
    Devices,
    /// Files of the host that are given as credentials
    Credentials,
    /// More memory, processes or weight than a sandbox has by default, and pinning
    Limits,
    /// All of these
    All,
}

impl Trust {
    /// Returns the word for it on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Units => "units",
            Self::Networks => "networks",
            Self::Ports => "ports",
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::Credentials => "credentials",
            Self::Limits => "limits",
            Self::All => "all",
        }
    }

    /// Returns whether trust in `given` covers this kind.
    #[must_use]
    pub fn is_in(self, given: &BTreeSet<Self>) -> bool {
        given.contains(&self) || given.contains(&Self::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_on_the_command_line() {
        for kind in Trust::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.as_str());
        }
    }

    #[test]
    fn all_covers_every_kind_and_a_kind_itself_alone() {
        for kind in Trust::value_variants() {
            assert!(kind.is_in(&[Trust::All].into()));
            assert!(kind.is_in(&[*kind].into()));
            assert!(!kind.is_in(&BTreeSet::new()));
        }
        assert!(!Trust::Ports.is_in(&[Trust::Mounts].into()));
    }
}
