//! The account files of a sandbox: those of the host without its people and without its passwords.
//!
//! Pure: text in, text out (passwd(5), group(5), shadow(5), gshadow(5)). Reading and writing the files
//! is the caller's. subuid(5) and subgid(5) are not derived: the sandbox has no use for the host's.

mod file;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use file::{BadLine, Group, GroupShadow, Limits, NewUser, Shadow, User};

/// The uid and gid of `nobody`, which the kernel shows for owners that have no number here:
/// `/proc/sys/fs/overflowuid`, proc(5).
const OVERFLOW_ID: u32 = 65534;

/// What replaces a password. crypt(5): no password hashes to it, so it never matches.
const LOCKED: &str = "*";

/// The texts of the four files. Those that are absent are empty.
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
    /// Owners of files that are copied.
    pub uids: BTreeSet<u32>,
    /// Groups of files that are copied.
    pub gids: BTreeSet<u32>,
}

/// The accounts of a system, in the order of the files.
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
    /// Lines that could not be understood and were dropped.
    pub bad_lines: Vec<BadLine>,
}

impl Accounts {
    /// Parses the files. Empty lines, comments and the `+`/`-` lines of NIS are passed over.
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

    /// Writes the files.
    pub fn render(&self) -> Texts {
        Texts {
            passwd: file::render(&self.users),
            group: file::render(&self.groups),
            shadow: file::render(&self.shadows),
            gshadow: file::render(&self.group_shadows),
        }
    }

    /// Keeps uid 0, the system accounts, `nobody` and what is needed, all with locked passwords.
    ///
    /// Groups are kept by the same rule, and so is the primary group of every kept user, since its
    /// files would belong to a number without a name. Members that are not kept leave their groups.
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

    /// Adds an account that is not there, without a password, and a group for it, if the number has none.
    pub fn add(&mut self, user: &NewUser<'_>) {
        self.users.push(User::new(user));
        self.add_group(user.name, user.gid);
    }

    /// Adds a group without members, if its number has none.
    pub fn add_group(&mut self, name: &str, gid: u32) {
        if !self.groups.iter().any(|group| group.gid == gid) {
            self.groups.push(Group::new(name, gid));
        }
    }

    /// The user of this name; the first, as for getpwnam(3).
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The group of this name; the first, as for getgrnam(3).
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
}

#[cfg(test)]
mod tests;
