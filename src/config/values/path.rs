//! Paths inside a sandbox.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::config::as_text;
use crate::config::values::escape::is_unwritable;

/// Absolute, normalised path in the sandbox, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(PathBuf);

/// Error of parsing a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePathError {
    /// The path does not begin with `/`.
    #[error("'{0}' is not an absolute path")]
    Relative(String),
    /// The path has a `..` component.
    #[error("'{0}' has '..' in it")]
    Parent(String),
    /// The path has a control character, which XML and unit files cannot carry.
    #[error("{0:?} has a control character in it")]
    Control(String),
}

impl GuestPath {
    /// Returns the path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Returns whether the path is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == Path::new("/")
    }
}

/// Refuses a text that libvirt's XML cannot carry.
pub(in crate::config) fn check_writable(text: &str) -> Result<(), ParsePathError> {
    match text.chars().any(is_unwritable) {
        true => Err(ParsePathError::Control(text.to_owned())),
        false => Ok(()),
    }
}

impl FromStr for GuestPath {
    type Err = ParsePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_writable(text)?;
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(ParsePathError::Relative(text.to_owned()));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(ParsePathError::Parent(text.to_owned()));
        }
        // Collecting the components drops `.`, `//` and a trailing slash.
        Ok(Self(path.components().collect()))
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

as_text!(GuestPath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        let path: GuestPath = "//a/./b/".parse().unwrap();
        assert_eq!(path.as_path(), Path::new("/a/b"));
        assert!("//.".parse::<GuestPath>().unwrap().is_root());
    }

    #[test]
    fn what_is_no_path_in_a_sandbox_is_refused() {
        for text in ["", "a", "/../a", "/a\n", "/\u{ffff}"] {
            assert!(text.parse::<GuestPath>().is_err(), "{text:?}");
        }
    }
}
