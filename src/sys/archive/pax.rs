//! Records of a PAX header: `LENGTH KEY=VALUE\n`, where the length counts itself. Values may be any bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Appends a record to a header.
pub(super) fn push(records: &mut Vec<u8>, key: &OsStr, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(format!("{length} ").as_bytes());
    records.extend(key.as_bytes());
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// Parses the records of a header; `None` if they are invalid.
pub(super) fn parse(mut text: &[u8]) -> Option<Vec<(&OsStr, &[u8])>> {
    let mut records = Vec::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let length: usize = number(&text[..space])?.try_into().ok()?;
        let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((OsStr::from_bytes(&record[..equals]), &record[equals + 1..]));
        text = &text[length..];
    }
    Some(records)
}

/// Records of a member, by key.
#[derive(Debug)]
pub(super) struct List<'a>(Vec<(&'a OsStr, &'a [u8])>);

impl<'a> List<'a> {
    /// Parses the records of a header; `None` if they are invalid.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        parse(text).map(Self)
    }

    /// Returns the value of a key; the last of several counts.
    pub(super) fn get(&self, key: &str) -> Option<&'a [u8]> {
        let mut found = self.0.iter().rev().filter(|(name, _)| *name == key);
        found.next().map(|(_, value)| *value)
    }

    /// Returns the value of a key as a number; the outer `None` means it is not a number.
    pub(super) fn number(&self, key: &str) -> Option<Option<u64>> {
        self.get(key)
            .map_or(Some(None), |value| number(value).map(Some))
    }

    /// Returns the keys with a prefix, without it, and their values.
    pub(super) fn below(&self, prefix: &str) -> impl Iterator<Item = (&'a OsStr, &'a [u8])> {
        self.0.iter().filter_map(move |(key, value)| {
            let rest = key.as_bytes().strip_prefix(prefix.as_bytes())?;
            Some((OsStr::from_bytes(rest), *value))
        })
    }
}

/// Parses a number of digits only.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| is_plain)?;
    text.parse().ok()
}

/// Parses a time, `SECONDS[.FRACTION]`, as seconds and nanoseconds.
pub(super) fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits = format!("{fraction:0<9}");
    let nanoseconds = i64::try_from(number(&digits.as_bytes()[..9])?).ok()?;
    // Times before 1970 are negative, including the fraction.
    match seconds.starts_with('-') && nanoseconds > 0 {
        true => Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((whole, nanoseconds)),
    }
}

/// Formats a time.
pub(super) fn time_text(seconds: i64, nanoseconds: i64) -> String {
    match seconds < 0 && nanoseconds > 0 {
        true => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
        false => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_bytes() {
        let values: [&[u8]; 4] = [b"", b"a\nb=c\n", &[0, 255, 10], &[b'x'; 95]];
        let mut text = Vec::new();
        for value in values {
            push(&mut text, OsStr::new("SCHILY.xattr.user.a"), value);
        }
        let read = parse(&text).unwrap();
        assert_eq!(
            read.iter().map(|(_, value)| *value).collect::<Vec<_>>(),
            values
        );
        for wrong in [
            "x",
            "5 a=b",
            "99 a=b\n",
            "0 a=b\n",
            "3 a=b\n",
            "6 a b\n\n",
            "+6 a=b\n",
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_exact() {
        for (seconds, nanoseconds) in [(0, 0), (7, 5), (-1, 1), (-1, 0), (-2, 999_999_999)] {
            let text = time_text(seconds, nanoseconds);
            assert_eq!(
                time(text.as_bytes()),
                Some((seconds, nanoseconds)),
                "{text}"
            );
        }
        assert_eq!(time(b"3.5"), Some((3, 500_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time(b"x"), None);
    }
}
