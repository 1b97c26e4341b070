//! Lines of the four account files, and of login.defs(5).

use std::collections::BTreeSet;
use std::fmt;

use super::LOCKED;

/// Highest ids of system accounts, as opposed to accounts of people: login.defs(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `SYS_UID_MAX`.
    pub system_uid_max: u32,
    /// `SYS_GID_MAX`.
    pub system_gid_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            system_uid_max: 999,
            system_gid_max: 999,
        }
    }
}

impl Limits {
    /// Parses the limits in the text of `/etc/login.defs`. An unset maximum is one less
    /// than the minimum for accounts of people, as in login.defs(5).
    pub fn from_login_defs(text: &str) -> Limits {
        let value = |key: &str| {
            let mut lines = text.lines().map(str::split_whitespace);
            lines
                .find_map(|mut words| (words.next() == Some(key)).then(|| number(words.next()?))?)
        };
        let maximum = |maximum: &str, minimum: &str, otherwise: u32| {
            value(maximum)
                .or_else(|| value(minimum)?.checked_sub(1))
                .unwrap_or(otherwise)
        };
        let default = Limits::default();
        Limits {
            system_uid_max: maximum("SYS_UID_MAX", "UID_MIN", default.system_uid_max),
            system_gid_max: maximum("SYS_GID_MAX", "GID_MIN", default.system_gid_max),
        }
    }
}

/// Parses a number of login.defs(5): decimal, octal with a leading `0`, or hexadecimal with a leading `0x`.
fn number(word: &str) -> Option<u32> {
    let parsed = match (word.strip_prefix("0x"), word.strip_prefix('0')) {
        (Some(digits), _) => u32::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8),
        (None, _) => word.parse(),
    };
    parsed.ok()
}

/// Skipped line. Its text is "'/etc/shadow' line 3: …", without the content of the line,
/// which may be a password hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// The name of the file.
    pub file: &'static str,
    /// Line number, from 1.
    pub line: usize,
    /// Reason.
    pub what: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' line {}: {}", self.file, self.line, self.what)
    }
}

/// Password field: a hash, a mark, or empty.
#[derive(Clone, PartialEq, Eq)]
struct Password(String);

impl Password {
    /// Replaces everything but `x`, which means that the password is in the shadow file: passwd(5).
    fn without_hash(&self) -> Password {
        let shadowed = self.0 == "x";
        Password(if shadowed { "x" } else { LOCKED }.to_owned())
    }
}

/// Prints no content, so that no log can contain a hash.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(_)")
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    password: Password,
    pub uid: u32,
    pub gid: u32,
    pub gecos: String,
    pub home: String,
    pub shell: String,
}

/// A line of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    password: Password,
    pub gid: u32,
    pub members: Vec<String>,
}

/// A line of `/etc/shadow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// The name of the user.
    pub name: String,
    password: Password,
    /// Remaining fields, verbatim.
    ageing: String,
}

/// A line of `/etc/gshadow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupShadow {
    /// The name of the group.
    pub name: String,
    password: Password,
    /// Users who may change the group.
    pub administrators: Vec<String>,
    /// Users in the group.
    pub members: Vec<String>,
}

/// An account to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewUser<'a> {
    pub name: &'a str,
    pub uid: u32,
    pub gid: u32,
    pub home: &'a str,
}

impl User {
    pub(super) fn new(user: &NewUser<'_>) -> User {
        User {
            name: user.name.to_owned(),
            password: Password(LOCKED.to_owned()),
            uid: user.uid,
            gid: user.gid,
            gecos: String::new(),
            home: user.home.to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    pub(super) fn locked(&self) -> User {
        User {
            password: self.password.without_hash(),
            ..self.clone()
        }
    }
}

impl Group {
    pub(super) fn new(name: &str, gid: u32) -> Group {
        Group {
            name: name.to_owned(),
            password: Password(LOCKED.to_owned()),
            gid,
            members: vec![],
        }
    }

    pub(super) fn locked(&self, users: &BTreeSet<&str>) -> Group {
        Group {
            password: self.password.without_hash(),
            members: only(&self.members, users),
            ..self.clone()
        }
    }
}

impl Shadow {
    pub(super) fn locked(&self) -> Shadow {
        Shadow {
            password: Password(LOCKED.to_owned()),
            ..self.clone()
        }
    }
}

impl GroupShadow {
    pub(super) fn locked(&self, users: &BTreeSet<&str>) -> GroupShadow {
        GroupShadow {
            name: self.name.clone(),
            password: Password(LOCKED.to_owned()),
            administrators: only(&self.administrators, users),
            members: only(&self.members, users),
        }
    }
}

fn only(names: &[String], users: &BTreeSet<&str>) -> Vec<String> {
    let kept = names.iter().filter(|name| users.contains(name.as_str()));
    kept.cloned().collect()
}

/// One line of an account file.
pub(super) trait Line: Sized {
    /// File with such lines.
    const FILE: &'static str;
    /// Parses the fields of a line.
    fn from_fields(fields: &[&str]) -> Result<Self, &'static str>;
    /// Formats the line, without a line feed.
    fn text(&self) -> String;
}

const FIELDS: &str = "the number of fields is wrong";

impl Line for User {
    const FILE: &'static str = "/etc/passwd";

    fn from_fields(fields: &[&str]) -> Result<Self, &'static str> {
        let [name, password, uid, gid, gecos, home, shell] = *fields else {
            return Err(FIELDS);
        };
        Ok(User {
            name: name.to_owned(),
            password: Password(password.to_owned()),
            uid: uid.parse().map_err(|_| "the uid is no number")?,
            gid: gid.parse().map_err(|_| "the gid is no number")?,
            gecos: gecos.to_owned(),
            home: home.to_owned(),
            shell: shell.to_owned(),
        })
    }

    fn text(&self) -> String {
        let User {
            name,
            password,
            uid,
            gid,
            gecos,
            home,
            shell,
        } = self;
        format!("{name}:{password}:{uid}:{gid}:{gecos}:{home}:{shell}")
    }
}

impl Line for Group {
    const FILE: &'static str = "/etc/group";

    fn from_fields(fields: &[&str]) -> Result<Self, &'static str> {
        let [name, password, gid, members] = *fields else {
            return Err(FIELDS);
        };
        Ok(Group {
            name: name.to_owned(),
            password: Password(password.to_owned()),
            gid: gid.parse().map_err(|_| "the gid is no number")?,
            members: list(members),
        })
    }

    fn text(&self) -> String {
        let Group {
            name,
            password,
            gid,
            members,
        } = self;
        format!("{name}:{password}:{gid}:{}", members.join(","))
    }
}

impl Line for Shadow {
    const FILE: &'static str = "/etc/shadow";

    fn from_fields(fields: &[&str]) -> Result<Self, &'static str> {
        let [name, password, ageing @ ..] = fields else {
            return Err(FIELDS);
        };
        if ageing.len() != 7 {
            return Err(FIELDS);
        }
        Ok(Shadow {
            name: (*name).to_owned(),
            password: Password((*password).to_owned()),
            ageing: ageing.join(":"),
        })
    }

    fn text(&self) -> String {
        let Shadow {
            name,
            password,
            ageing,
        } = self;
        format!("{name}:{password}:{ageing}")
    }
}

impl Line for GroupShadow {
    const FILE: &'static str = "/etc/gshadow";

    fn from_fields(fields: &[&str]) -> Result<Self, &'static str> {
        let [name, password, administrators, members] = *fields else {
            return Err(FIELDS);
        };
        Ok(GroupShadow {
            name: name.to_owned(),
            password: Password(password.to_owned()),
            administrators: list(administrators),
            members: list(members),
        })
    }

    fn text(&self) -> String {
        let (administrators, members) = (self.administrators.join(","), self.members.join(","));
        format!("{}:{}:{administrators}:{members}", self.name, self.password)
    }
}

fn list(field: &str) -> Vec<String> {
    let names = field.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

pub(super) fn parse<L: Line>(text: &str, bad_lines: &mut Vec<BadLine>) -> Vec<L> {
    let mut parsed = Vec::new();
    for (text, line) in text.lines().zip(1..) {
        // nsswitch.conf(5), "compat": lines that begin with + or - include or exclude NIS accounts.
        if text.trim().is_empty() || text.starts_with(['#', '+', '-']) {
            continue;
        }
        let fields: Vec<&str> = text.split(':').collect();
        let named = fields.first().is_some_and(|name| !name.trim().is_empty());
        match L::from_fields(&fields) {
            Ok(value) if named => parsed.push(value),
            result => bad_lines.push(BadLine {
                file: L::FILE,
                line,
                what: result.err().unwrap_or("the name is empty"),
            }),
        }
    }
    parsed
}

pub(super) fn render<L: Line>(lines: &[L]) -> String {
    lines.iter().map(|line| line.text() + "\n").collect()
}
