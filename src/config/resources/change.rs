//! Changes of limits, like `memory=1G`; `memory=` restores the default.

use std::collections::BTreeSet;
use std::str::FromStr;

use clap::{CommandFactory, Parser};
use toml_edit::{DocumentMut, Item, Table};

use crate::config::Resources;

/// Change of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the limit in `sandbox.toml`.
    pub key: String,
    /// New value; `None` restores the default.
    pub value: Option<String>,
}

/// Error of parsing a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The text is not `KEY=VALUE`, or the limit is unknown.
    #[error("'{0}' is not a change: write KEY=VALUE, with KEY one of {keys}", keys = keys().join(", "))]
    Syntax(String),
    /// The value is invalid for this limit.
    #[error("{0}")]
    Value(String),
}

/// Parser of limits, shared with the command line so that the checks are the same.
#[derive(Debug, Parser)]
struct Limits {
    #[command(flatten)]
    resources: Resources,
}

/// Returns the names of all limits.
fn keys() -> Vec<String> {
    let command = Limits::command();
    let names = command.get_arguments().filter_map(clap::Arg::get_long);
    names
        .map(str::to_owned)
        .filter(|name| name != "help")
        .collect()
}

impl FromStr for Change {
    type Err = ChangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ChangeError::Syntax(text.to_owned());
        let (key, value) = text.split_once('=').ok_or_else(syntax)?;
        if !keys().iter().any(|known| known == key) {
            return Err(syntax());
        }
        let change = Self {
            key: key.to_owned(),
            value: Some(value.to_owned()).filter(|value| !value.is_empty()),
        };
        change.read().map(|_| change)
    }
}

impl Change {
    /// Parses the value into limits with nothing else set.
    fn read(&self) -> Result<Resources, ChangeError> {
        let argument = self
            .value
            .as_ref()
            .map(|value| format!("--{}={value}", self.key));
        let words = std::iter::once("limits".to_owned()).chain(argument);
        let parsed = Limits::try_parse_from(words);
        parsed.map(|limits| limits.resources).map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            ChangeError::Value(line.trim_start_matches("error: ").replace("'--", "'"))
        })
    }
}

impl Resources {
    /// Returns the limits with the changes applied in order. A limit of devices is replaced as a whole.
    ///
    /// # Errors
    /// If a value is invalid for its limit.
    pub fn with_changes(&self, changes: &[Change]) -> Result<Self, ChangeError> {
        let wrong = |error: &dyn std::fmt::Display| ChangeError::Value(error.to_string());
        let table =
            |resources: &Self| toml::Table::try_from(resources).map_err(|error| wrong(&error));
        let mut merged = table(self)?;
        let mut seen = BTreeSet::new();
        for change in changes {
            let is_first = seen.insert(&change.key);
            let value = table(&change.read()?)?.remove(&change.key);
            match (merged.get_mut(&change.key), value) {
                (Some(toml::Value::Array(there)), Some(toml::Value::Array(more))) if !is_first => {
                    there.extend(more)
                }
                (_, Some(value)) => drop(merged.insert(change.key.clone(), value)),
                (_, None) => drop(merged.remove(&change.key)),
            }
        }
        merged.try_into().map_err(|error| wrong(&error))
    }

    /// Returns the text of a configuration with the limits `keys` set to their values here; everything
    /// else, including comments, is unchanged.
    ///
    /// # Errors
    /// If the text is not TOML.
    pub fn write_into(&self, text: &str, keys: &[String]) -> Result<String, ChangeError> {
        let wrong = |error: &dyn std::fmt::Display| ChangeError::Value(error.to_string());
        let mut document: DocumentMut = text.parse().map_err(|error| wrong(&error))?;
        let mut own = toml_edit::ser::to_document(self).map_err(|error| wrong(&error))?;
        let limits = document
            .entry("resources")
            .or_insert(Item::Table(Table::new()))
            .as_table_like_mut()
            .ok_or_else(|| ChangeError::Value("'resources' is not a table".to_owned()))?;
        for key in keys {
            let Some(mut item) = own.remove(key) else {
                limits.remove(key);
                continue;
            };
            let before = limits.get(key).and_then(Item::as_value);
            if let (Some(before), Some(value)) = (before, item.as_value_mut()) {
                *value.decor_mut() = before.decor().clone();
            }
            // The comment above a key belongs to it, and is removed with it.
            match limits.get_mut(key) {
                Some(there) => *there = item,
                None => drop(limits.insert(key, item)),
            }
        }
        Ok(document.to_string())
    }

    /// Returns the names of the limits that differ from `other`.
    #[must_use]
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let table = |resources: &Self| toml::Table::try_from(resources).unwrap_or_default();
        let (own, other) = (table(self), table(other));
        keys()
            .into_iter()
            .filter(|key| own.get(key) != other.get(key))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_changed_as_the_command_line_has_them() {
        let changes: Vec<Change> = [
            "memory=1G",
            "io-read=/dev/a=1M",
            "io-read=/dev/b=2M",
            "cpus=",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let before = Resources {
            cpus: Some(2),
            pids: Some(100),
            io_read: vec!["/dev/c=1M".parse().unwrap()],
            ..Resources::default()
        };
        let after = before.with_changes(&changes).unwrap();
        let expected = Resources {
            memory: Some("1G".parse().unwrap()),
            pids: Some(100),
            io_read: vec!["/dev/a=1M".parse().unwrap(), "/dev/b=2M".parse().unwrap()],
            ..Resources::default()
        };
        assert_eq!(after, expected);
        assert_eq!(before.differing_keys(&after), ["memory", "cpus", "io-read"]);
    }

    #[test]
    fn comments_stay() {
        let before = "# mine\nname = \"a\" # b\n\n[resources] # limits\n# why\nmemory = \"1G\" # much\ncpus = 2\n[x]\ny=1\n";
        let resources = Resources {
            memory: Some("2G".parse().unwrap()),
            pids: Some(100),
            io_read: vec!["/dev/c=1M".parse().unwrap()],
            ..Resources::default()
        };
        let keys = ["memory", "cpus", "pids", "io-read"].map(str::to_owned);
        let after = resources.write_into(before, &keys).unwrap();
        assert_eq!(
            after,
            "# mine\nname = \"a\" # b\n\n[resources] # limits\n# why\nmemory = \"2G\" # much\npids = 100\n\
             io-read = [\"/dev/c=1M\"]\n[x]\ny=1\n"
        );
        let made = resources.write_into("name = 1\n", &keys).unwrap();
        assert!(made.contains("[resources]\nmemory = \"2G\"\n"), "{made}");
    }

    #[test]
    fn what_is_no_change_says_why() {
        for (text, word) in [
            ("memory", "KEY=VALUE"),
            ("color=red", "cpu-shares"),
            ("help=1", "cpu-shares"),
            ("memory=1X", "not a size"),
            ("cpus=0", "1..=4096"),
            ("pids=x", "'pids <N>'"),
        ] {
            let error = text.parse::<Change>().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
