//! Three-way merge of the account files by entry: new users and groups of the host appear, those of the sandbox stay.
//!
//! Pure: three sets of four texts in, four texts out. Lines of the sandbox keep their text and position, even
//! invalid ones. No account is removed, because its files may still exist.

use std::collections::BTreeMap;

use crate::facts::accounts::Texts;

/// Files that are merged by entry.
pub const ACCOUNTS: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];

/// One of the four files, with the meaning of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Passwd,
    Group,
    Shadow,
    Gshadow,
}

impl File {
    /// Returns the index of the field with the id.
    fn number(self) -> Option<usize> {
        matches!(self, Self::Passwd | Self::Group).then_some(2)
    }

    /// Returns true if the last field is a list of members, which is merged as a set.
    fn has_members(self) -> bool {
        matches!(self, Self::Group | Self::Gshadow)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Passwd => "/etc/passwd",
            Self::Group => "/etc/group",
            Self::Shadow => "/etc/shadow",
            Self::Gshadow => "/etc/gshadow",
        }
    }
}

/// Change of one entry. Its text is a phrase without passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub path: &'static str,
    /// Description with the name of the account.
    pub text: String,
    /// True if the sandbox differs from the host afterwards.
    pub is_conflict: bool,
}

/// Merges the four files of the sandbox, `own`, with the host's; `base` is the version that the sandbox was made from.
#[must_use]
pub fn merge(base: &Texts, host: &Texts, own: &Texts) -> (Texts, Vec<Note>) {
    let mut notes = Vec::new();
    let mut one = |file, base: &str, host: &str, own: &str, known: Option<&str>| {
        merge_file(file, base, host, own, known, &mut notes)
    };
    let passwd = one(File::Passwd, &base.passwd, &host.passwd, &own.passwd, None);
    let group = one(File::Group, &base.group, &host.group, &own.group, None);
    let merged = Texts {
        shadow: one(
            File::Shadow,
            &base.shadow,
            &host.shadow,
            &own.shadow,
            Some(&passwd),
        ),
        gshadow: one(
            File::Gshadow,
            &base.gshadow,
            &host.gshadow,
            &own.gshadow,
            Some(&group),
        ),
        passwd,
        group,
    };
    (merged, notes)
}

/// Returns the lines with an entry, by name.
fn entries(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter_map(|line| Some((name(line)?, line)));
    // The first entry of a name counts, as for getpwnam(3).
    lines.rev().collect()
}

/// Returns the name of the entry in a line, unless the line is a comment or of NIS.
fn name(line: &str) -> Option<&str> {
    let (name, _) = line.split_once(':')?;
    (!name.is_empty() && !name.starts_with(['#', '+', '-'])).then_some(name)
}

fn field(line: &str, index: usize) -> Option<&str> {
    line.split(':').nth(index)
}

fn merge_file(
    file: File,
    base: &str,
    host: &str,
    own: &str,
    known: Option<&str>,
    notes: &mut Vec<Note>,
) -> String {
    let (base, own_entries) = (entries(base), entries(own));
    let host_entries = entries(host);
    let known = known.map(entries);
    let mut note = |text: String, is_conflict| {
        notes.push(Note {
            path: file.path(),
            text,
            is_conflict,
        });
    };
    let mut lines: Vec<String> = own
        .lines()
        .map(|line| {
            let merged = name(line).and_then(|name| {
                let host = host_entries.get(name)?;
                // A second line with the same name has no effect.
                let is_first = own_entries.get(name) == Some(&line);
                is_first.then(|| merge_line(file, base.get(name).copied(), host, line))
            });
            let Some((merged, is_conflict)) = merged else {
                return line.to_owned();
            };
            let name = name(line).unwrap_or_default();
            if is_conflict {
                note(
                    format!("'{name}' differs on the host and in the sandbox"),
                    true,
                );
            }
            if merged != line {
                note(format!("'{name}' changed on the host"), false);
            }
            merged
        })
        .collect();
    let had = |name: &str| own_entries.contains_key(name) || base.contains_key(name);
    let mut added = Vec::new();
    for line in host.lines() {
        let Some(name) = name(line).filter(|name| host_entries.get(name) == Some(&line)) else {
            continue;
        };
        let is_known = known.as_ref().is_none_or(|known| known.contains_key(name));
        if had(name) || !is_known {
            continue;
        }
        match holder(file, line, &own_entries) {
            Some((holder, number)) => note(
                format!(
                    "'{name}' is new on the host, but its number {number} is that of '{holder}' in the sandbox"
                ),
                true,
            ),
            None => {
                note(format!("'{name}' is new on the host"), false);
                added.push(line.to_owned());
            }
        }
    }
    // Lines after those of NIS are consulted last.
    let end = lines
        .iter()
        .position(|line| line.starts_with('+'))
        .unwrap_or(lines.len());
    lines.splice(end..end, added);
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Returns the entry that has the number of `line` already, and the number.
fn holder<'a>(
    file: File,
    line: &'a str,
    own: &BTreeMap<&'a str, &'a str>,
) -> Option<(&'a str, &'a str)> {
    let index = file.number()?;
    let number = field(line, index)?;
    let mut own = own.iter();
    let (holder, _) = own.find(|(_, line)| field(line, index) == Some(number))?;
    Some((holder, number))
}

/// Merges the line of an entry that both have; returns it with true if they conflict.
fn merge_line(file: File, base: Option<&str>, host: &str, own: &str) -> (String, bool) {
    if base == Some(host) || host == own {
        return (own.to_owned(), false);
    }
    // The id must stay: files in the sandbox belong to it.
    let number = |line| file.number().and_then(|index| field(line, index));
    if number(host) != number(own) {
        return (own.to_owned(), base.map(number) != Some(number(host)));
    }
    if file.has_members() {
        return merge_members(base, host, own);
    }
    match base == Some(own) {
        true => (host.to_owned(), false),
        // Passwords and their ageing are not shared.
        false => (own.to_owned(), file == File::Passwd),
    }
}

fn merge_members(base: Option<&str>, host: &str, own: &str) -> (String, bool) {
    fn halves(line: &str) -> (&str, Vec<&str>) {
        let (rest, members) = line.rsplit_once(':').unwrap_or((line, ""));
        let members = members.split(',').filter(|member| !member.is_empty());
        (rest, members.collect())
    }
    let (base_rest, base_members) = base.map_or(("", vec![]), halves);
    let (host_rest, host_members) = halves(host);
    let (own_rest, own_members) = halves(own);
    let left = |member: &str| base_members.contains(&member) && !host_members.contains(&member);
    let mut members: Vec<&str> = own_members.clone();
    members.retain(|member| !left(member));
    for member in host_members {
        if !base_members.contains(&member) && !members.contains(&member) {
            members.push(member);
        }
    }
    let rest = if own_rest == base_rest {
        host_rest
    } else {
        own_rest
    };
    (format!("{rest}:{}", members.join(",")), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(passwd: &str, group: &str, shadow: &str) -> Texts {
        Texts {
            passwd: passwd.into(),
            group: group.into(),
            shadow: shadow.into(),
            gshadow: String::new(),
        }
    }

    #[test]
    fn entries_of_the_host_appear_and_those_of_the_sandbox_stay() {
        let base = texts(
            "root:x:0:0::/root:/bin/sh\ngames:x:5:60::/g:/bin/false\n",
            "root:x:0:\nssl:x:110:a,b\n",
            "root:*:1::::::\ngames:*:1::::::\n",
        );
        let own = texts(
            "# mine\nroot:x:0:0::/root:/bin/bash\nown:x:900:900::/:/bin/sh\n+::::::\n",
            "root:x:0:\nssl:x:110:a,b,own\nown:x:900:\n",
            "root:$6$hash:2::::::\nown:*:1::::::\n",
        );
        let host = texts(
            "root:x:0:0::/root:/bin/sh\ngames:x:5:60::/g:/bin/sh\nweb:x:105:110::/w:/bin/false\nclash:x:900:105::/:/x\n",
            "root:x:0:\nssl:x:110:b,web\nweb:x:105:\n",
            "root:*:3::::::\ngames:*:1::::::\nweb:*:1::::::\nclash:*:1::::::\n",
        );
        let (merged, notes) = merge(&base, &host, &own);
        assert_eq!(
            merged.passwd,
            "# mine\nroot:x:0:0::/root:/bin/bash\nown:x:900:900::/:/bin/sh\nweb:x:105:110::/w:/bin/false\n+::::::\n"
        );
        assert_eq!(
            merged.group,
            "root:x:0:\nssl:x:110:b,own,web\nown:x:900:\nweb:x:105:\n"
        );
        assert_eq!(
            merged.shadow,
            "root:$6$hash:2::::::\nown:*:1::::::\nweb:*:1::::::\n"
        );
        let conflicts: Vec<_> = notes.iter().filter(|note| note.is_conflict).collect();
        assert_eq!(conflicts.len(), 1, "{notes:?}");
        assert!(conflicts[0].text.contains("number 900 is that of 'own'"));
        assert!(notes.iter().all(|note| !note.text.contains('$')));
        // A second merge changes nothing.
        assert_eq!(merge(&host, &host, &merged), (merged.clone(), vec![]));
    }

    #[test]
    fn unchanged_lines_follow_the_host() {
        let line = |shell: &str, uid| texts(&format!("web:x:{uid}:1::/:{shell}\n"), "", "");
        let (merged, _) = merge(&line("/a", 5), &line("/b", 5), &line("/a", 5));
        assert_eq!(merged, line("/b", 5));
        // The id and the sandbox's own changes stay.
        let (merged, notes) = merge(&line("/a", 5), &line("/a", 6), &line("/a", 5));
        assert_eq!((merged, notes[0].is_conflict), (line("/a", 5), true));
        let (merged, notes) = merge(&line("/a", 5), &line("/b", 5), &line("/c", 5));
        assert_eq!((merged, notes[0].is_conflict), (line("/c", 5), true));
    }
}
