//! Names of sandboxes.

use std::fmt;
use std::str::FromStr;

use crate::config::as_text;

/// Name of a sandbox: 1 to 63 characters of `A-Z a-z 0-9 _ . -`, the first a letter or a digit.
///
/// The name of a directory, a libvirt domain (which refuses `/` and line ends), a systemd unit
/// (`NAME_sandbox.service`; `systemd.unit(5)` would allow more), a cgroup, and by default the host name
/// inside, which is why it is no longer than a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxName(String);

/// Maximum length in bytes.
const LONGEST: usize = 63;

/// Error of parsing the name of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    /// The name is empty.
    #[error("the name of a sandbox must not be empty")]
    Empty,
    /// The name has more than 63 characters.
    #[error("the name is {0} characters long, but the name of a sandbox has at most {LONGEST}")]
    TooLong(usize),
    /// The first character could be mistaken for an option or a hidden file.
    #[error("'{}' is not the name of a sandbox: it must begin with a letter or a digit", .0.escape_debug())]
    First(String),
    /// The name has another character that is not allowed.
    #[error(
        "'{}' is not the name of a sandbox: it may have letters, digits, '_', '.' and '-', but not {:?}", .0.escape_debug(), .1
    )]
    Character(String, char),
}

impl SandboxName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the host's unit for this sandbox.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("{self}_sandbox.service")
    }

    /// Returns the name of the host's socket unit that starts the sandbox on demand.
    #[must_use]
    pub fn socket(&self) -> String {
        format!("{self}_sandbox.socket")
    }
}

impl FromStr for SandboxName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.chars().next().ok_or(ParseNameError::Empty)?;
        let length = text.chars().count();
        if length > LONGEST {
            return Err(ParseNameError::TooLong(length));
        }
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || "_.-".contains(*c);
        if let Some(other) = text.chars().find(|c| !is_allowed(c)) {
            return Err(ParseNameError::Character(text.to_owned(), other));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(ParseNameError::First(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(SandboxName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "web1", "zoo-php8.2-fpm", "A_b.c", "7", &"x".repeat(63)] {
            assert_eq!(good.parse::<SandboxName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "../x",
            "a/b",
            "-x",
            ".x",
            "_x",
            "a b",
            "a\n",
            "a%",
            "ä",
            &"x".repeat(64),
            &"x".repeat(300),
        ] {
            let error = bad.parse::<SandboxName>().unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
