//! Parser of GLib keyfiles, the configuration format of libvirt-sandbox up to 0.8.
//!
//! Pure. Groups are `[name]`, keys `key=value`, comments begin with `#`; escapes are `\s`, `\n`, `\t`, `\r` and
//! `\\`. A list is a sequence of numbered groups, which may have gaps.

use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of networks, addresses and routes.
const MOST_NETWORKS: usize = 100;

/// Maximum number of mounts, variables, disks, includes and arguments.
const MOST: usize = 1024;

/// Error in a keyfile. Its text is a phrase that follows a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyfileError {
    /// A line that is neither a group, a key nor a comment.
    #[error("line {0}: neither '[group]' nor 'key=value'")]
    Line(usize),
    /// A key before the first group.
    #[error("line {0}: a key outside of any group")]
    NoGroup(usize),
    /// An invalid escape.
    #[error("line {0}: a backslash is followed by none of s, n, t, r and \\")]
    Escape(usize),
    /// A required key is missing.
    #[error("group '{group}': the key '{key}' is missing")]
    Missing {
        /// The group.
        group: String,
        /// The key.
        key: String,
    },
    /// An invalid value.
    #[error("group '{group}': the key '{key}' is '{value}', {problem}")]
    Value {
        /// The group.
        group: String,
        /// The key.
        key: String,
        /// Value.
        value: String,
        /// Reason.
        problem: String,
    },
    /// A number is too high.
    #[error("group '{group}': the number {index} is too high, there are at most {most}")]
    Index {
        /// The group, or the group of the key.
        group: String,
        /// The number.
        index: usize,
        /// Maximum.
        most: usize,
    },
}

type Result<T> = std::result::Result<T, KeyfileError>;

/// Groups of a file with their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyfile {
    groups: BTreeMap<String, BTreeMap<String, String>>,
}

impl Keyfile {
    /// Parses the text of a file. If a key occurs twice, the last value counts.
    ///
    /// # Errors
    /// Names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut groups: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut current: Option<String> = None;
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let name = rest
                    .trim_end()
                    .strip_suffix(']')
                    .filter(|name| !name.is_empty() && !name.contains(['[', ']']))
                    .ok_or(KeyfileError::Line(number))?;
                groups.entry(name.to_owned()).or_default();
                current = Some(name.to_owned());
                continue;
            }
            let (key, value) = line.split_once('=').ok_or(KeyfileError::Line(number))?;
            let key = key.trim_end();
            if key.is_empty() {
                return Err(KeyfileError::Line(number));
            }
            let group = current.as_ref().ok_or(KeyfileError::NoGroup(number))?;
            let value = unescape(value.trim_start()).ok_or(KeyfileError::Escape(number))?;
            let keys = groups.entry(group.clone()).or_default();
            keys.insert(key.to_owned(), value);
        }
        Ok(Self { groups })
    }

    /// Iterates over the groups with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        self.groups.iter().map(|(name, keys)| (name.as_str(), keys))
    }

    /// Returns the value of a key, if present.
    #[must_use]
    pub fn get(&self, group: &str, key: &str) -> Option<&str> {
        Some(self.groups.get(group)?.get(key)?.as_str())
    }

    /// Returns the value of a required key.
    ///
    /// # Errors
    /// Names group and key.
    pub fn need(&self, group: &str, key: &str) -> Result<&str> {
        self.get(group, key).ok_or_else(|| KeyfileError::Missing {
            group: group.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Returns true if a key is `true`, and `default` if it is missing.
    ///
    /// # Errors
    /// The value is neither `true` nor `false`.
    pub fn flag(&self, group: &str, key: &str, default: bool) -> Result<bool> {
        match self.get(group, key) {
            None => Ok(default),
            // GLib accepts 1 and 0, too.
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => Err(wrong(group, key, value, "neither true nor false")),
        }
    }

    /// Parses the value of a key.
    ///
    /// # Errors
    /// The value is invalid.
    pub fn read<T>(&self, group: &str, key: &str) -> Result<Option<T>>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let value = self.get(group, key);
        value
            .map(|value| {
                value
                    .trim_end()
                    .parse()
                    .map_err(|error: T::Err| wrong(group, key, value, &error.to_string()))
            })
            .transpose()
    }

    /// Returns the groups `prefix.N` in the order of their numbers, which may have gaps.
    ///
    /// # Errors
    /// A number too high.
    pub fn numbered(&self, prefix: &str) -> Result<Vec<String>> {
        let most = match prefix.rsplit('.').next() {
            Some("network" | "address" | "route") => MOST_NETWORKS,
            Some(_) | None => MOST,
        };
        let names = self.groups.keys().map(String::as_str);
        let numbers = numbers(names, prefix);
        check_index(prefix, &numbers, most)?;
        Ok(numbers
            .into_iter()
            .map(|index| format!("{prefix}.{index}"))
            .collect())
    }

    /// Returns the values of the keys `prefix.N` of a group, in the order of their numbers.
    ///
    /// # Errors
    /// A number too high.
    pub fn values(&self, group: &str, prefix: &str) -> Result<Vec<&str>> {
        let Some(keys) = self.groups.get(group) else {
            return Ok(vec![]);
        };
        let numbers = numbers(keys.keys().map(String::as_str), prefix);
        check_index(group, &numbers, MOST)?;
        Ok(numbers
            .into_iter()
            .filter_map(|index| keys.get(&format!("{prefix}.{index}")).map(String::as_str))
            .collect())
    }
}

/// Makes the error for an invalid value.
pub fn wrong(group: &str, key: &str, value: &str, problem: &str) -> KeyfileError {
    KeyfileError::Value {
        group: group.to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
    }
}

fn numbers<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> BTreeSet<usize> {
    names
        .filter_map(|name| {
            let number = name.strip_prefix(prefix)?.strip_prefix('.')?;
            // `007` is another group than `7`.
            let is_plain = number == "0" || !number.starts_with(['0', '+']);
            number.parse().ok().filter(|_| is_plain)
        })
        .collect()
}

fn check_index(group: &str, numbers: &BTreeSet<usize>, most: usize) -> Result<()> {
    match numbers.last() {
        Some(index) if *index >= most => Err(KeyfileError::Index {
            group: group.to_owned(),
            index: *index,
            most,
        }),
        Some(_) | None => Ok(()),
    }
}

fn unescape(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        text.push(match char {
            '\\' => match chars.next()? {
                's' => ' ',
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(text)
}
