//! Which system calls a sandbox may make.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which system calls a sandbox may make: `default`, `off` or the path of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// All but what is of use to the host's administrator alone.
    #[default]
    Default,
    /// All.
    Off,
    /// What a file of the host says, in JSON as of the OCI's runtime specification.
    Profile(PathBuf),
}

/// Why a text names no filter.
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
    /// Whether it is the usual, which no file says.
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
