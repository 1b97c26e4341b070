//! Paths inside a sandbox.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::config::as_text;
use crate::config::values::escape::is_unwritable;

/// An absolute, normalised path in the sandbox without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(PathBuf);

/// Why a text is no path in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePathError {
    /// It does not begin with `/`.
    #[error("'{0}' is not an absolute path")]
    Relative(String),
    /// It has `..` in it.
    #[error("'{0}' has '..' in it")]
    Parent(String),
    /// It has a control character in it, which XML and unit files cannot carry.
    #[error("{0:?} has a control character in it")]
    Control(String),
}

impl GuestPath {
    /// The path itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Whether it is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0 == Path::new("/")
    }
}

/// Refuses a text that libvirt's XML could not carry.
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
        // Collecting components drops `.`, `//` and a slash at the end.
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
