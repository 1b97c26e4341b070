//! Security label of a sandbox: `dynamic[,label=LABEL]`, `static,label=LABEL` or `inherit`. A label extends
//! to the end of the text, including commas.

pub mod capability;
pub mod confinement;
pub mod idmap;
pub mod seccomp;
pub mod trust;

use std::fmt;
use std::str::FromStr;

use crate::config::as_text;
use crate::config::values::escape::is_unwritable;

/// Choice of a sandbox's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// libvirt picks a label that no other domain has.
    Dynamic {
        /// Base label, instead of the hypervisor's own.
        label: Option<Label>,
    },
    /// Exactly this label.
    Static {
        /// The label.
        label: Label,
    },
    /// Label of the calling process.
    Inherit,
}

/// SELinux context or name of an AppArmor profile. Not empty, without control characters; the host's policy
/// decides the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(String);

/// Error of parsing a security option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecurityError {
    /// The text has none of the forms.
    #[error(
        "'{0}' is not a security option: use dynamic[,label=LABEL], static,label=LABEL or inherit"
    )]
    Syntax(String),
    /// `static` has no label.
    #[error("a static label must be said: static,label=LABEL")]
    NoLabel,
    /// The label is invalid.
    #[error("{0:?} is not a security label")]
    Label(String),
}

impl FromStr for Security {
    type Err = ParseSecurityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, option) = match text.split_once(',') {
            Some((kind, option)) => (kind, Some(option)),
            None => (text, None),
        };
        let syntax = || ParseSecurityError::Syntax(text.to_owned());
        let label = option
            .map(|option| option.strip_prefix("label=").ok_or_else(syntax)?.parse())
            .transpose()?;
        match (kind, label) {
            ("dynamic", label) => Ok(Self::Dynamic { label }),
            ("static", Some(label)) => Ok(Self::Static { label }),
            ("static", None) => Err(ParseSecurityError::NoLabel),
            ("inherit", None) => Ok(Self::Inherit),
            _ => Err(syntax()),
        }
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dynamic { label: None } => f.write_str("dynamic"),
            Self::Dynamic { label: Some(label) } => write!(f, "dynamic,label={label}"),
            Self::Static { label } => write!(f, "static,label={label}"),
            Self::Inherit => f.write_str("inherit"),
        }
    }
}

as_text!(Security);

impl Label {
    /// Returns the label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = ParseSecurityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() || text.chars().any(is_unwritable) {
            return Err(ParseSecurityError::Label(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Label);

/// SELinux type of files. Letters, digits, `_`, `.` and `-`, because it becomes part of a context and of a
/// command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileType(String);

/// Error of parsing a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no type of SELinux's: it is like container_file_t")]
pub struct ParseFileTypeError(String);

impl FileType {
    /// Returns the type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileType {
    type Err = ParseFileTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseFileTypeError(text.to_owned()))
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(FileType);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_are_inverse() {
        for text in [
            "dynamic",
            "dynamic,label=system_u:system_r:svirt_lxc_net_t:s0",
            "static,label=system_u:system_r:svirt_t:s0:c355,c412",
            "static,label=u:r:t:s0:c0,label=x",
            "inherit",
        ] {
            assert_eq!(text.parse::<Security>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_says_nothing_about_security_is_refused() {
        for text in [
            "",
            "wat",
            "Dynamic",
            "dynamic,",
            "dynamic,garbage",
            "dynamic,labell=system_u:system_r:svirt_t:s0",
            "dynamic,label=",
            "dynamic,label= ",
            "static",
            "static,",
            "static,label=",
            "static,label=a\nb",
            "inherit,",
            "inherit,label=x",
        ] {
            assert!(text.parse::<Security>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_type_is_a_word() {
        assert_eq!(
            "container_file_t".parse::<FileType>().unwrap().as_str(),
            "container_file_t"
        );
        for text in ["", "a:b", "-x", "a b", "a\n", "9t"] {
            assert!(text.parse::<FileType>().is_err(), "{text:?}");
        }
    }
}
