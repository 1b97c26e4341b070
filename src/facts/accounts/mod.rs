//! Account files of a sandbox: the host's files without accounts of people and without passwords.
//!
//! Pure: text in, text out (passwd(5), group(5), shadow(5), gshadow(5)). Callers read and write the
//! files. subuid(5) and subgid(5) are not derived: a sandbox has no use for the host's.

mod file;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use file::{BadLine, Group, GroupShadow, Limits, NewUser, Shadow, User};

/// Uid and gid of `nobody`, which the kernel shows for owners without an id in this user namespace:
/// `/proc/sys/fs/overflowuid`, proc(5).
const OVERFLOW_ID: u32 = 65534;

/// Replacement of a password. No password hashes to it (crypt(5)), so it never matches.
const LOCKED: &str = "*";

/// Texts of the four files; an absent file is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
    /// `/etc/shadow`.
    pub shadow: String,
    /// `/etc/gshadow`.
    pub gshadow: String,
}

/// Accounts to keep although they are not system accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Names of users, such as those of `User=`.
    pub users: BTreeSet<String>,
    /// Names of groups.
    pub groups: BTreeSet<String>,
    /// Owners of copied files.
    pub uids: BTreeSet<u32>,
    /// Groups of copied files.
    pub gids: BTreeSet<u32>,
}

/// Accounts of a system, in the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// The lines of `/etc/passwd`.
    pub users: Vec<User>,
    /// The lines of `/etc/group`.
    pub groups: Vec<Group>,
    /// The lines of `/etc/shadow`.
    pub shadows: Vec<Shadow>,
    /// The lines of `/etc/gshadow`.
    pub group_shadows: Vec<GroupShadow>,
    /// Lines that could not be parsed and were dropped.
    pub bad_lines: Vec<BadLine>,
}

impl Accounts {
    /// Parses the files. Empty lines, comments and the `+`/`-` lines of NIS are skipped.
    pub fn parse(texts: &Texts) -> Accounts {
        let mut bad_lines = Vec::new();
        Accounts {
            users: file::parse(&texts.passwd, &mut bad_lines),
            groups: file::parse(&texts.group, &mut bad_lines),
            shadows: file::parse(&texts.shadow, &mut bad_lines),
            group_shadows: file::parse(&texts.gshadow, &mut bad_lines),
            bad_lines,
        }
    }

    /// Formats the files.
    pub fn render(&self) -> Texts {
        Texts {
            passwd: file::render(&self.users),
            group: file::render(&self.groups),
            shadow: file::render(&self.shadows),
            gshadow: file::render(&self.group_shadows),
        }
    }

    /// Keeps uid 0, system accounts, `nobody` and the needed accounts, all with locked passwords.
    ///
    /// Groups follow the same rule. The primary group of every kept user is kept as well, because its
    /// files would otherwise belong to an id without a name. Dropped users are removed from their groups.
    pub fn filter(&self, limits: Limits, needed: &Needed) -> Accounts {
        let users: Vec<User> = self
            .users
            .iter()
            .filter(|user| {
                user.uid <= limits.system_uid_max
                    || user.uid == OVERFLOW_ID
                    || needed.users.contains(&user.name)
                    || needed.uids.contains(&user.uid)
            })
            .map(User::locked)
            .collect();
        let names: BTreeSet<&str> = users.iter().map(|user| user.name.as_str()).collect();
        let primary: BTreeSet<u32> = users.iter().map(|user| user.gid).collect();
        let groups: Vec<Group> = self
            .groups
            .iter()
            .filter(|group| {
                group.gid <= limits.system_gid_max
                    || group.gid == OVERFLOW_ID
                    || primary.contains(&group.gid)
                    || needed.groups.contains(&group.name)
                    || needed.gids.contains(&group.gid)
            })
            .map(|group| group.locked(&names))
            .collect();
        let group_names: BTreeSet<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        let shadows = self.shadows.iter();
        let shadows = shadows.filter(|shadow| names.contains(shadow.name.as_str()));
        let group_shadows = self.group_shadows.iter();
        let group_shadows = group_shadows.filter(|group| group_names.contains(group.name.as_str()));
        Accounts {
            shadows: shadows.map(Shadow::locked).collect(),
            group_shadows: group_shadows.map(|group| group.locked(&names)).collect(),
            bad_lines: self.bad_lines.clone(),
            users,
            groups,
        }
    }

    /// Adds a missing account without a password, and a group for it if its gid has none.
    pub fn add(&mut self, user: &NewUser<'_>) {
        self.users.push(User::new(user));
        self.add_group(user.name, user.gid);
    }

    /// Adds a group without members if its gid has none.
    pub fn add_group(&mut self, name: &str, gid: u32) {
        if !self.groups.iter().any(|group| group.gid == gid) {
            self.groups.push(Group::new(name, gid));
        }
    }

    /// Returns the first user of this name, as getpwnam(3) does.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// Returns the first group of this name, as getgrnam(3) does.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
}

#[cfg(test)]
mod tests;
