//! SELinux contexts: `user:role:type:level`.

use std::fmt;
use std::str::FromStr;

use crate::config::FileType;

/// Context of a policy with levels, as all distributions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    user: String,
    role: String,
    kind: String,
    level: String,
}

/// Error of a text that is not a context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an SELinux context: one has four parts, USER:ROLE:TYPE:LEVEL")]
pub struct ParseContextError(String);

impl Context {
    /// Returns the context with another level.
    #[must_use]
    pub fn with_level(&self, level: &str) -> Self {
        Self {
            level: level.to_owned(),
            ..self.clone()
        }
    }

    /// Returns the context with another type.
    #[must_use]
    pub fn with_type(&self, kind: &FileType) -> Self {
        Self {
            kind: kind.as_str().to_owned(),
            ..self.clone()
        }
    }

    /// Returns the level, or range of levels.
    #[must_use]
    pub fn level(&self) -> &str {
        &self.level
    }

    /// Returns the sensitivity of the lowest level.
    #[must_use]
    pub fn sensitivity(&self) -> &str {
        self.level.split([':', '-']).next().unwrap_or_default()
    }

    /// Returns the type.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }
}

impl FromStr for Context {
    type Err = ParseContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseContextError(text.to_owned());
        let is_word = |word: &str| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        let mut parts = text.splitn(4, ':');
        let mut word = || parts.next().filter(|word| is_word(word)).ok_or_else(wrong);
        let (user, role, kind) = (word()?, word()?, word()?);
        let level = parts.next().ok_or_else(wrong)?;
        let is_level = |c: char| c.is_ascii_alphanumeric() || ":,.-".contains(c);
        if level.is_empty() || !level.chars().all(is_level) {
            return Err(wrong());
        }
        Ok(Self {
            user: user.to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: level.to_owned(),
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            role,
            kind,
            level,
        } = self;
        write!(f, "{user}:{role}:{kind}:{level}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_read_and_written() {
        for text in [
            "system_u:system_r:svirt_t:s0",
            "system_u:object_r:container_file_t:s0:c1,c2",
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
        ] {
            let context: Context = text.parse().unwrap();
            assert_eq!(context.to_string(), text);
            assert_eq!(context.sensitivity(), "s0");
        }
        for text in [
            "",
            "a:b:c",
            "a:b:c:",
            "a::c:s0",
            "a:b:c d:s0",
            "a:b:c:s0\nx",
            "a:b:c:s0'",
        ] {
            assert!(text.parse::<Context>().is_err(), "{text:?}");
        }
    }
}
