//! Parser of sysusers.d(5): users and groups that packages need.
//!
//! The parser creates no users and does not read /etc/passwd.

use std::path::{Path, PathBuf};

use super::conf_d::{self, File, LineError, ReadError, non_empty, split};

/// Source of the id of a user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// `-`: any free id.
    Any,
    /// This id.
    Number(u32),
    /// This id or any free one for the user, and another group: a name or a number.
    WithGroup {
        /// Uid.
        number: Option<u32>,
        /// Primary group.
        group: String,
    },
    /// The id of the owner of this path.
    OwnerOf(PathBuf),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `u`: a user and, without [`Id::WithGroup`], a group of the same name.
    User {
        /// Name.
        name: String,
        /// Source of the id.
        id: Id,
        /// The description.
        gecos: Option<String>,
        /// Home directory; `/` by default.
        home: Option<PathBuf>,
        /// Login shell; nologin by default.
        shell: Option<PathBuf>,
        /// `u!`: the account is locked.
        locked: bool,
    },
    /// `g`: a group.
    Group {
        /// Name.
        name: String,
        /// Source of the id.
        id: Id,
    },
    /// `m`: a member of a group.
    Member {
        /// The user.
        user: String,
        /// The group.
        group: String,
    },
    /// `r`: a range of ids to choose from.
    Range {
        /// The lowest.
        first: u32,
        /// The highest.
        last: u32,
    },
}

/// Loads the entries of a root. Invalid lines are logged and skipped.
pub fn load(root: &Path) -> Result<Vec<File<Entry>>, ReadError> {
    conf_d::load(root, "sysusers.d", parse_entry)
}

/// Parses a line that is neither empty nor a comment.
pub fn parse_entry(line: &str) -> Result<Entry, LineError> {
    let error = |problem| LineError {
        line: line.into(),
        problem,
    };
    let (words, rest) =
        split(line, 6).ok_or_else(|| error("a quote or an escape is not finished"))?;
    if !rest.is_empty() {
        return Err(error("there are more than six fields"));
    }
    let name = non_empty(words.get(1)).map(str::to_owned);
    let name = || name.clone().ok_or_else(|| error("the name is missing"));
    let id = || parse_id(non_empty(words.get(2))).ok_or_else(|| error("the number is not one"));
    let path = |index| non_empty(words.get(index)).map(PathBuf::from);
    match words.first().map_or("", String::as_str) {
        kind @ ("u" | "u!") => Ok(Entry::User {
            name: name()?,
            id: id()?,
            gecos: non_empty(words.get(3)).map(str::to_owned),
            home: path(4),
            shell: path(5),
            locked: kind == "u!",
        }),
        "g" => Ok(Entry::Group {
            name: name()?,
            id: id()?,
        }),
        "m" => {
            let group = non_empty(words.get(2)).ok_or_else(|| error("the group is missing"))?;
            Ok(Entry::Member {
                user: name()?,
                group: group.into(),
            })
        }
        "r" => {
            let range = non_empty(words.get(2)).and_then(parse_range);
            let (first, last) = range.ok_or_else(|| error("the range is not one"))?;
            Ok(Entry::Range { first, last })
        }
        _ => Err(error("the type is not known")),
    }
}

fn parse_id(id: Option<&str>) -> Option<Id> {
    let Some(id) = id else {
        return Some(Id::Any);
    };
    if id.starts_with('/') {
        return Some(Id::OwnerOf(id.into()));
    }
    match id.split_once(':') {
        Some((_, "")) => None,
        Some(("-", group)) => Some(Id::WithGroup {
            number: None,
            group: group.into(),
        }),
        Some((number, group)) => Some(Id::WithGroup {
            number: Some(number.parse().ok()?),
            group: group.into(),
        }),
        None => id.parse().ok().map(Id::Number),
    }
}

fn parse_range(range: &str) -> Option<(u32, u32)> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, id: Id) -> Entry {
        Entry::User {
            name: name.into(),
            id,
            gecos: None,
            home: None,
            shell: None,
            locked: false,
        }
    }

    #[test]
    fn lines_of_each_type() {
        let group = |number, group: &str| Id::WithGroup {
            number,
            group: group.into(),
        };
        for (line, expected) in [
            ("u a", user("a", Id::Any)),
            ("u a -", user("a", Id::Any)),
            ("u a 33 - - -", user("a", Id::Number(33))),
            ("u a 4:65534", user("a", group(Some(4), "65534"))),
            ("u a -:games", user("a", group(None, "games"))),
            (
                "u a /usr/bin/a",
                user("a", Id::OwnerOf("/usr/bin/a".into())),
            ),
            (
                "u! a 27 \"A \\\"big\\\" Server\" /var/lib/a /bin/bash",
                Entry::User {
                    name: "a".into(),
                    id: Id::Number(27),
                    gecos: Some("A \"big\" Server".into()),
                    home: Some("/var/lib/a".into()),
                    shell: Some("/bin/bash".into()),
                    locked: true,
                },
            ),
            (
                "g tty 5",
                Entry::Group {
                    name: "tty".into(),
                    id: Id::Number(5),
                },
            ),
            (
                "m a audio",
                Entry::Member {
                    user: "a".into(),
                    group: "audio".into(),
                },
            ),
            (
                "r - 500-900",
                Entry::Range {
                    first: 500,
                    last: 900,
                },
            ),
            (
                "r - 500",
                Entry::Range {
                    first: 500,
                    last: 500,
                },
            ),
        ] {
            assert_eq!(parse_entry(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn invalid_lines_have_a_reason() {
        for (line, problem) in [
            ("x a", "the type is not known"),
            ("u", "the name is missing"),
            ("u - 3", "the name is missing"),
            ("u a 3x", "the number is not one"),
            ("u a 3:", "the number is not one"),
            ("m a", "the group is missing"),
            ("r - 9-5", "the range is not one"),
            (
                "u a - A Server / /bin/sh x",
                "there are more than six fields",
            ),
            ("u a - \"A", "a quote or an escape is not finished"),
        ] {
            assert_eq!(parse_entry(line).unwrap_err().problem, problem, "{line}");
        }
    }

    #[test]
    fn every_entry_of_a_real_root_is_valid() {
        let files = conf_d::read(Path::new("/"), "sysusers.d").unwrap();
        if files.is_empty() {
            println!("SKIP: this system has no sysusers.d");
        }
        for (path, content) in files {
            for line in content
                .lines()
                .map(str::trim)
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
            {
                assert!(parse_entry(line).is_ok(), "{}: {line}", path.display());
            }
        }
    }
}
