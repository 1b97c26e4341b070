//! Filter of a sandbox's system calls.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Filter of system calls: `default`, `off` or the path of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// Allows everything but what only the host's administrator needs.
    #[default]
    Default,
    /// Allows everything.
    Off,
    /// Profile in a file of the host, in the JSON of the OCI runtime specification.
    Profile(PathBuf),
}

/// Error of parsing a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no filter of system calls: use default, off, or the absolute path of a profile in the JSON of OCI"
)]
pub struct SeccompError(String);

impl FromStr for Seccomp {
    type Err = SeccompError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self::Default),
            "off" | "unconfined" => Ok(Self::Off),
            path if path.starts_with('/') => Ok(Self::Profile(path.into())),
            _ => Err(SeccompError(text.to_owned())),
        }
    }
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Off => f.write_str("off"),
            Self::Profile(path) => path.display().fmt(f),
        }
    }
}

super::as_text!(Seccomp);

impl Seccomp {
    /// Returns whether it is the default, which is not written to files.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["default", "off", "/etc/x.json"] {
            assert_eq!(text.parse::<Seccomp>().unwrap().to_string(), text);
        }
        for text in ["", "on", "x.json"] {
            assert!(text.parse::<Seccomp>().is_err(), "{text}");
        }
    }
}
