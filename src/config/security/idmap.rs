//! Mapping of a sandbox's ids to ids of the host.

use std::fmt;
use std::str::FromStr;

/// Mapping of a sandbox's ids to ids of the host: `auto`, `no` or `START[:COUNT]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Idmap {
    /// A range of its own, if the kernel and the filesystems support it.
    #[default]
    Auto,
    /// No mapping: ids inside are those of the host.
    No,
    /// The given range.
    Range(IdRange),
}

/// Range of ids of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
    count: u32,
}

/// Default size of a range: what `DynamicUser=` and `nobody` need (systemd's UIDS-GIDS).
pub const USUAL_COUNT: u32 = 1 << 16;

impl IdRange {
    /// Returns the range of `count` ids from `first`; `None` if it is empty, contains root, or exceeds
    /// the valid ids.
    #[must_use]
    pub fn new(first: u32, count: u32) -> Option<Self> {
        // The last number is not an id: chown(2) takes it for "no change".
        let end = first.checked_add(count)?;
        (first > 0 && count > 0 && end < u32::MAX).then_some(Self { first, count })
    }

    /// Returns the id that is 0 inside.
    #[must_use]
    pub fn first(self) -> u32 {
        self.first
    }

    /// Returns the number of ids.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// Returns the first id after the range.
    #[must_use]
    pub fn end(self) -> u32 {
        self.first + self.count
    }

    /// Returns whether two ranges have an id in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}

/// Error of parsing an id mapping.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a map of ids: use auto, no or START[:COUNT], the first id of the host and how many ({USUAL_COUNT} if not \
     said); root's is not to be among them"
)]
pub struct IdmapError(String);

impl FromStr for IdRange {
    type Err = IdmapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<u32>().ok()).flatten()
        };
        let range = match text.split_once(':') {
            Some((first, count)) => number(first).zip(number(count)),
            None => number(text).map(|first| (first, USUAL_COUNT)),
        };
        range
            .and_then(|(first, count)| Self::new(first, count))
            .ok_or_else(|| IdmapError(text.to_owned()))
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.count)
    }
}

impl FromStr for Idmap {
    type Err = IdmapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "no" => Ok(Self::No),
            range => range.parse().map(Self::Range),
        }
    }
}

impl fmt::Display for Idmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::No => f.write_str("no"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

super::as_text!(Idmap);

impl Idmap {
    /// Returns the mapping for a copy of the sandbox: a range cannot be used twice.
    #[must_use]
    pub fn for_copy(self) -> Self {
        match self {
            Self::Auto | Self::Range(_) => Self::Auto,
            Self::No => Self::No,
        }
    }

    /// Returns whether it is the default, which is not written to files.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["auto", "no", "100000:65536", "1:1"] {
            assert_eq!(text.parse::<Idmap>().unwrap().to_string(), text);
        }
        let usual: Idmap = "200000".parse().unwrap();
        assert_eq!(usual.to_string(), "200000:65536");
        for text in [
            "",
            "yes",
            "0",
            "0:65536",
            "5:0",
            "-1",
            "+5",
            "4294967295",
            "1:4294967294",
            "1:2:3",
            "a:b",
        ] {
            assert!(text.parse::<Idmap>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_overlap_where_they_share_an_id() {
        let range = |text: &str| text.parse::<IdRange>().unwrap();
        assert!(range("10:10").overlaps(range("19:1")));
        assert!(!range("10:10").overlaps(range("20:1")));
        assert!(!range("20:1").overlaps(range("10:10")));
    }
}
