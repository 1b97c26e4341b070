//! Names of snapshots.

use std::fmt;
use std::str::FromStr;

use crate::config::{SandboxName, as_text};

/// Name of a snapshot. It names a directory, so the rules are those of a sandbox's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(SandboxName);

/// Error of parsing the name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not the name of a snapshot: it has 1 to 63 letters, digits, '_', '.' and '-', and begins with a letter or a digit"
)]
pub struct ParseSnapshotNameError(String);

impl SnapshotName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for SnapshotName {
    type Err = ParseSnapshotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.parse();
        name.map(Self)
            .map_err(|_| ParseSnapshotNameError(text.to_owned()))
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(SnapshotName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        assert_eq!("v1.2".parse::<SnapshotName>().unwrap().as_str(), "v1.2");
        for bad in ["", ".", "..", ".work", "a/b", "-x", "a b"] {
            let error = bad.parse::<SnapshotName>().unwrap_err().to_string();
            assert!(error.contains("of a snapshot"), "{error}");
        }
    }
}
