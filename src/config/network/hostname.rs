//! Host names of sandboxes.

use std::fmt;
use std::str::FromStr;

use crate::config::{SandboxName, as_text};

/// Host name (RFC 1123): labels of 1 to 63 letters, digits and inner dashes, separated by dots; at most 64
/// characters, the kernel's limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String);

/// Error of parsing a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a host name")]
pub struct ParseHostnameError(String);

/// Maximum number of characters of a host name, and of one of its labels.
const LONGEST: usize = 64;
const LONGEST_LABEL: usize = 63;

impl Hostname {
    /// Returns the default host name of a sandbox: its name with `_` replaced by dashes, and without
    /// characters that a label cannot begin or end with.
    #[must_use]
    pub fn of(name: &SandboxName) -> Self {
        let text = name.as_str().replace('_', "-");
        let labels: Vec<&str> = text
            .split('.')
            .map(|label| label.trim_matches('-'))
            .filter(|label| !label.is_empty())
            .collect();
        // Never empty: a sandbox's name begins with a letter or a digit, and is no longer than a
        // label.
        Self(labels.join("."))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = ParseHostnameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_label = |label: &str| {
            (1..=LONGEST_LABEL).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= LONGEST && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseHostnameError(text.to_owned()))
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Hostname);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_checked() {
        for good in ["a", "web-1.example.org", &"x".repeat(63)] {
            assert_eq!(good.parse::<Hostname>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a_b",
            "a..b",
            "a.",
            "ä",
            "a b",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn host_names_are_made_of_names() {
        for (name, hostname) in [
            ("web1", "web1"),
            ("my_web.", "my-web"),
            ("a..b", "a.b"),
            ("a-.-_b_.-", "a.b"),
            ("php8.2-fpm", "php8.2-fpm"),
        ] {
            let made = Hostname::of(&name.parse().unwrap());
            assert_eq!(made.as_str(), hostname);
            assert_eq!(made.to_string().parse(), Ok(made));
        }
    }
}
