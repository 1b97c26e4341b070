//! Sets of capabilities: `CapabilityBoundingSet=` and `AmbientCapabilities=` of systemd.exec(5).
//!
//! Names stay text, because the kernel decides which ones exist.

use std::collections::BTreeSet;

/// A set of capabilities by name (`CAP_NET_ADMIN`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CapabilitySet {
    /// Only these capabilities.
    Only(BTreeSet<String>),
    /// All capabilities but these.
    AllBut(BTreeSet<String>),
}

impl CapabilitySet {
    /// No capability.
    pub const NONE: Self = Self::Only(BTreeSet::new());
    /// Every capability.
    pub const ALL: Self = Self::AllBut(BTreeSet::new());

    /// Returns true if the capability is in the set.
    pub fn contains(&self, capability: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(capability),
            Self::AllBut(names) => !names.contains(capability),
        }
    }

    /// Returns the `names` that are in the set.
    pub fn among<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
        let names = names.into_iter();
        names.filter(|name| self.contains(name)).collect()
    }

    /// Merges the assignments of a key in order; `initial` is the set without any assignment.
    ///
    /// An empty assignment resets to the empty set and a lone `~` to the full set. A leading `~` removes, and the first
    /// assignment replaces `initial`.
    pub fn merge<'a>(initial: Self, values: impl Iterator<Item = &'a str>) -> Self {
        let mut set = initial.clone();
        for value in values {
            let (inverted, list) = value
                .strip_prefix('~')
                .map_or((false, value), |list| (true, list));
            let names: BTreeSet<String> = list
                .split_whitespace()
                .map(str::to_ascii_uppercase)
                .collect();
            let replaces = names.is_empty() || set == initial;
            set = match (set, inverted) {
                (_, true) if replaces => Self::AllBut(names),
                (_, false) if replaces => Self::Only(names),
                (Self::Only(old), false) => Self::Only(&old | &names),
                (Self::Only(old), true) => Self::Only(&old - &names),
                (Self::AllBut(old), false) => Self::AllBut(&old - &names),
                (Self::AllBut(old), true) => Self::AllBut(&old | &names),
            };
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_merge() {
        // values, has A, has B, has C
        let cases: [(&[&str], [bool; 3]); 11] = [
            (&[], [true, true, true]),
            (&[""], [false, false, false]),
            (&["cap_a CAP_B"], [true, true, false]),
            (&["CAP_A", "CAP_B"], [true, true, false]),
            (&["~CAP_A", "~CAP_B"], [false, false, true]),
            (&["CAP_A CAP_B", "~CAP_A"], [false, true, false]),
            (&["~CAP_A CAP_B", "CAP_A"], [true, false, true]),
            // A reset discards earlier assignments; from the empty set nothing can be removed.
            (&["CAP_A", "", "CAP_B"], [false, true, false]),
            (&["CAP_A", "~"], [true, true, true]),
            (&["", "~CAP_A"], [false, false, false]),
            (&["CAP_A", " "], [false, false, false]),
        ];
        for (values, has) in cases {
            let set = CapabilitySet::merge(CapabilitySet::ALL, values.iter().copied());
            assert_eq!(
                ["CAP_A", "CAP_B", "CAP_C"].map(|name| set.contains(name)),
                has,
                "{values:?}"
            );
        }
        let ambient = CapabilitySet::merge(CapabilitySet::NONE, ["CAP_A"].into_iter());
        assert!(ambient.contains("CAP_A") && !ambient.contains("CAP_B"));
        let reset = CapabilitySet::merge(CapabilitySet::NONE, ["CAP_A", "", "~CAP_B"].into_iter());
        assert_eq!(reset.among(["CAP_A", "CAP_B"]), ["CAP_A"]);
    }
}
