//! Amounts of bytes: `512M`, `10GiB`, `4096`.

use std::fmt;
use std::str::FromStr;

use crate::config::as_text;

/// Number of bytes. `K`, `M`, `G` and `T`, alone or as `KiB`…, are powers of 1024; without a suffix it is
/// bytes. Displayed with the largest suffix that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

/// Error of parsing an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// No whole number in front, or an unknown suffix.
    #[error("'{0}' is not a size: write a whole number with K, M, G, T or nothing behind it")]
    Syntax(String),
    /// More than 2^63 bytes.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

const SUFFIXES: [(&str, u32); 4] = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];

impl Bytes {
    /// Returns `count` MiB.
    #[must_use]
    pub const fn mebi(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of KiB, rounded up: libvirt's default unit.
    #[must_use]
    pub fn kibi(self) -> u64 {
        self.0.div_ceil(1024)
    }
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, suffix) = text.split_at(digits);
        let shift = match suffix {
            "" | "B" => 0,
            suffix => SUFFIXES
                .iter()
                .find(|(name, _)| suffix == *name || suffix.strip_suffix("iB") == Some(name))
                .map(|(_, shift)| *shift)
                .ok_or_else(|| ParseBytesError::Syntax(text.to_owned()))?,
        };
        if number.is_empty() {
            return Err(ParseBytesError::Syntax(text.to_owned()));
        }
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(|| ParseBytesError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = SUFFIXES
            .iter()
            .rev()
            .find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match fitting {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

as_text!(Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("4096", 4096, "4K"),
            ("1000", 1000, "1000"),
            ("10KiB", 10 << 10, "10K"),
            ("512M", 512 << 20, "512M"),
            ("3GiB", 3 << 30, "3G"),
            ("4096G", 4 << 40, "4T"),
        ] {
            let size: Bytes = text.parse().unwrap();
            assert_eq!(
                (size.get(), size.to_string().as_str()),
                (bytes, shown),
                "{text}"
            );
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "1.5G",
            "10MB",
            "10 M",
            "10m",
            "8388608T",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
