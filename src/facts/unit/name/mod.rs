//! Unit names, by the rules of systemd.unit(5).
//!
//! A name may belong to no unit. [`self::escape`] encodes arbitrary text in names.

pub mod escape;
pub(super) mod suggest;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use self::escape::is_plain;

/// The longest unit name systemd accepts, in bytes.
const MAX_LEN: usize = 255;

/// Kind of a unit, from the suffix of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitKind {
    /// A process or a group of them.
    Service,
    /// A socket that starts a service.
    Socket,
    /// A device known to udev.
    Device,
    /// A mount point.
    Mount,
    /// A mount point that is mounted on first use.
    Automount,
    /// A swap device or file.
    Swap,
    /// A group of units, or a point of synchronisation.
    Target,
    /// A watched path that starts a unit.
    Path,
    /// A timer that starts a unit.
    Timer,
    /// A node in the control group tree.
    Slice,
    /// Processes that systemd did not start.
    Scope,
}

impl UnitKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Service,
        Self::Socket,
        Self::Device,
        Self::Mount,
        Self::Automount,
        Self::Swap,
        Self::Target,
        Self::Path,
        Self::Timer,
        Self::Slice,
        Self::Scope,
    ];

    /// Returns the suffix without its dot; type-level drop-in directories have the same name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Socket => "socket",
            Self::Device => "device",
            Self::Mount => "mount",
            Self::Automount => "automount",
            Self::Swap => "swap",
            Self::Target => "target",
            Self::Path => "path",
            Self::Timer => "timer",
            Self::Slice => "slice",
            Self::Scope => "scope",
        }
    }

    /// Returns the section of a unit file with the settings of this kind.
    pub fn section(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Socket => "Socket",
            Self::Device => "Device",
            Self::Mount => "Mount",
            Self::Automount => "Automount",
            Self::Swap => "Swap",
            Self::Target => "Target",
            Self::Path => "Path",
            Self::Timer => "Timer",
            Self::Slice => "Slice",
            Self::Scope => "Scope",
        }
    }
}

/// Reason why a text is not a unit name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing before the suffix or before the `@`.
    #[error("parsing unit name '{name}': nothing before the suffix")]
    Empty {
        /// The text.
        name: String,
    },
    /// Longer than 255 bytes.
    #[error("parsing unit name '{name}': longer than {MAX_LEN} bytes")]
    TooLong {
        /// The text.
        name: String,
    },
    /// A character outside of `A-Z a-z 0-9 : - _ . \ @`.
    #[error("parsing unit name '{name}': character {character:?} is not allowed")]
    Character {
        /// The text.
        name: String,
        /// The first such character.
        character: char,
    },
    /// The suffix is not a kind of unit.
    #[error("parsing unit name '{name}': unknown suffix")]
    Suffix {
        /// The text.
        name: String,
    },
}

/// The valid name of a unit: `foo.service`, `foo@.service` (a template) or `foo@bar.service`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName {
    text: String,
    kind: UnitKind,
}

impl UnitName {
    /// Parses a name as written in a unit file or a directory, where the suffix is required.
    ///
    /// # Errors
    /// [`NameError`] if systemd would not accept the name.
    pub fn exact(text: &str) -> Result<Self, NameError> {
        let name = || text.to_owned();
        if text.len() > MAX_LEN {
            return Err(NameError::TooLong { name: name() });
        }
        let (stem, suffix) = text
            .rsplit_once('.')
            .ok_or_else(|| NameError::Suffix { name: name() })?;
        let kind = UnitKind::ALL
            .into_iter()
            .find(|kind| kind.suffix() == suffix)
            .ok_or_else(|| NameError::Suffix { name: name() })?;
        if stem.is_empty() || stem.starts_with('@') {
            return Err(NameError::Empty { name: name() });
        }
        let bad = |c: &char| !(is_plain(*c) || matches!(c, '-' | '\\' | '@'));
        match stem.chars().find(bad) {
            Some(character) => Err(NameError::Character {
                name: name(),
                character,
            }),
            None => Ok(Self { text: name(), kind }),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the kind of the unit.
    pub fn kind(&self) -> UnitKind {
        self.kind
    }

    /// Returns the name without its suffix (`%N`).
    pub fn stem(&self) -> &str {
        self.text
            .rsplit_once('.')
            .map_or(self.text.as_str(), |(stem, _)| stem)
    }

    /// Returns the part before the first `@`, or the stem if there is none (`%p`).
    pub fn prefix(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or(self.stem(), |(prefix, _)| prefix)
    }

    /// Returns the part between the first `@` and the suffix (`%i`), or `None` for templates and plain names.
    pub fn instance(&self) -> Option<&str> {
        self.stem()
            .split_once('@')
            .map(|(_, instance)| instance)
            .filter(|i| !i.is_empty())
    }

    /// Returns true for a template such as `foo@.service`, which cannot be started itself.
    pub fn is_template(&self) -> bool {
        self.stem()
            .split_once('@')
            .is_some_and(|(_, instance)| instance.is_empty())
    }

    /// Returns the template that this unit is an instance of.
    pub fn template(&self) -> Option<Self> {
        self.instance()?;
        Some(Self {
            text: format!("{}@.{}", self.prefix(), self.kind.suffix()),
            kind: self.kind,
        })
    }

    /// Returns the instance of a template; any other name is returned unchanged.
    ///
    /// # Errors
    /// [`NameError`] if the instance makes the name too long or holds a forbidden character.
    pub fn instantiate(&self, instance: &str) -> Result<Self, NameError> {
        if !self.is_template() {
            return Ok(self.clone());
        }
        Self::exact(&format!(
            "{}@{instance}.{}",
            self.prefix(),
            self.kind.suffix()
        ))
    }

    /// Returns the name with another kind: `foo.socket` for `foo.service`.
    pub fn with_kind(&self, kind: UnitKind) -> Self {
        Self {
            text: format!("{}.{}", self.stem(), kind.suffix()),
            kind,
        }
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    /// Parses a name as typed by a user: `.service` is added if there is no known suffix.
    fn from_str(text: &str) -> Result<Self, NameError> {
        match Self::exact(text) {
            Err(NameError::Suffix { .. }) if text.is_empty() => Err(NameError::Empty {
                name: String::new(),
            }),
            Err(NameError::Suffix { .. }) => Self::exact(&format!("{text}.service")),
            other => other,
        }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::exact(&text)
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_a_prefix_and_an_instance() {
        // text, whole, prefix, instance, template
        let cases = [
            ("foo", "foo.service", "foo", None, false),
            ("foo.socket", "foo.socket", "foo", None, false),
            (
                "php8.2-fpm",
                "php8.2-fpm.service",
                "php8.2-fpm",
                None,
                false,
            ),
            ("foo@", "foo@.service", "foo", None, true),
            ("foo@1.service", "foo@1.service", "foo", Some("1"), false),
            ("foo@-", "foo@-.service", "foo", Some("-"), false),
            ("a@b@c.timer", "a@b@c.timer", "a", Some("b@c"), false),
            (
                r"dev-a\x2db.device",
                r"dev-a\x2db.device",
                r"dev-a\x2db",
                None,
                false,
            ),
        ];
        for (text, whole, prefix, instance, template) in cases {
            let name: UnitName = text.parse().unwrap();
            assert_eq!(name.as_str(), whole);
            assert_eq!(name.prefix(), prefix, "{text}");
            assert_eq!(name.instance(), instance, "{text}");
            assert_eq!(name.is_template(), template, "{text}");
            assert_eq!(name.to_string().parse::<UnitName>().unwrap(), name);
        }
    }

    #[test]
    fn names_systemd_refuses_are_refused() {
        let long = "x".repeat(248);
        assert!("x".repeat(247).parse::<UnitName>().is_ok());
        for text in [
            "",
            ".service",
            "@.service",
            "@a.service",
            "a b",
            "a/b.service",
            "ä",
            "a\n.service",
            &long,
        ] {
            assert!(text.parse::<UnitName>().is_err(), "{text:?}");
        }
        assert!(UnitName::exact("foo").is_err());
        assert!(UnitName::exact("foo.conf").is_err());
    }

    #[test]
    fn templates_and_instances_belong_together() {
        let name = UnitName::exact("foo@x.service").unwrap();
        let template = name.template().unwrap();
        assert_eq!(template.as_str(), "foo@.service");
        assert_eq!(template.instantiate("x").unwrap(), name);
        assert!(template.template().is_none());
        assert!(template.instantiate("a b").is_err());
        assert_eq!(name.with_kind(UnitKind::Socket).as_str(), "foo@x.socket");
    }

    proptest! {
        #[test]
        fn names_never_panic(text in any::<String>()) {
            if let Ok(name) = text.parse::<UnitName>() {
                prop_assert_eq!(UnitName::exact(name.as_str()).unwrap(), name);
            }
        }
    }
}
