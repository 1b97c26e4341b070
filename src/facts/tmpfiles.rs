//! Parser of tmpfiles.d(5): paths that are created, kept and removed at boot.
//!
//! The parser does not expand specifiers (`%i`, `%m`), whose values only exist where
//! systemd-tmpfiles runs, and it applies nothing.

use std::path::{Path, PathBuf};

use super::conf_d::{self, File, LineError, ReadError, non_empty, split};
use crate::sys::path::normalize;

/// Action of a rule; named after tmpfiles.d(5), "Configuration File Format".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `f`: create a file; with `+` truncate it first.
    File,
    /// `w`: write to a file that exists.
    Write,
    /// `d`: create a directory.
    Directory,
    /// `D`: create a directory and empty it at shutdown.
    EmptiedDirectory,
    /// `e`: adjust a directory that exists.
    ExistingDirectory,
    /// `v`, `q`, `Q`: create a subvolume, or a directory where there are none.
    Subvolume,
    /// `p`: create a named pipe.
    Fifo,
    /// `L`: create a symbolic link.
    Symlink,
    /// `c`: create a character device.
    CharacterDevice,
    /// `b`: create a block device.
    BlockDevice,
    /// `C`: copy files or directories.
    Copy,
    /// `x`: keep the path and what is below from ageing.
    Ignore,
    /// `X`: keep only the path from ageing.
    IgnorePath,
    /// `r`: remove a path.
    Remove,
    /// `R`: remove a path with everything below.
    RemoveRecursively,
    /// `z`, `m`: adjust mode, owner and label.
    Adjust,
    /// `Z`: the same for everything below.
    AdjustRecursively,
    /// `t`: set extended attributes.
    Xattr,
    /// `T`: the same for everything below.
    XattrRecursively,
    /// `h`: set file attributes (chattr(1)).
    Attribute,
    /// `H`: the same for everything below.
    AttributeRecursively,
    /// `a`: set ACLs.
    Acl,
    /// `A`: the same for everything below.
    AclRecursively,
}

impl Action {
    fn from_letter(letter: char) -> Option<Self> {
        Some(match letter {
            // `F` is the old spelling of `f+`.
            'f' | 'F' => Self::File,
            'w' => Self::Write,
            'd' => Self::Directory,
            'D' => Self::EmptiedDirectory,
            'e' => Self::ExistingDirectory,
            'v' | 'q' | 'Q' => Self::Subvolume,
            'p' => Self::Fifo,
            'L' => Self::Symlink,
            'c' => Self::CharacterDevice,
            'b' => Self::BlockDevice,
            'C' => Self::Copy,
            'x' => Self::Ignore,
            'X' => Self::IgnorePath,
            'r' => Self::Remove,
            'R' => Self::RemoveRecursively,
            'z' | 'm' => Self::Adjust,
            'Z' => Self::AdjustRecursively,
            't' => Self::Xattr,
            'T' => Self::XattrRecursively,
            'h' => Self::Attribute,
            'H' => Self::AttributeRecursively,
            'a' => Self::Acl,
            'A' => Self::AclRecursively,
            _ => return None,
        })
    }
}

/// The access mode of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Permission bits, at most 0o7777.
    pub bits: u32,
    /// `~`: the bits are masked with those of the existing path.
    pub masked: bool,
    /// `:`: applies only if the path is created.
    pub only_new: bool,
}

/// The user or group of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name or number, with specifiers as written.
    pub name: String,
    /// `:`: applies only if the path is created.
    pub only_new: bool,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Action.
    pub action: Action,
    /// The characters after the letter, of `+!-=~^$?`.
    pub modifiers: String,
    /// Normal path, with specifiers and globs as written.
    pub path: PathBuf,
    /// Mode, if given.
    pub mode: Option<Mode>,
    /// User; root by default.
    pub user: Option<Owner>,
    /// Group; root by default.
    pub group: Option<Owner>,
    /// Age after which content is removed, as written.
    pub age: Option<String>,
    /// Argument: the rest of the line.
    pub argument: Option<String>,
}

/// Loads the rules of a root. Invalid lines are logged and skipped.
pub fn load(root: &Path) -> Result<Vec<File<Rule>>, ReadError> {
    conf_d::load(root, "tmpfiles.d", parse_rule)
}

/// Parses a line that is neither empty nor a comment.
pub fn parse_rule(line: &str) -> Result<Rule, LineError> {
    let error = |problem| LineError {
        line: line.into(),
        problem,
    };
    let (words, argument) =
        split(line, 6).ok_or_else(|| error("a quote or an escape is not finished"))?;
    let word = |index| words.get(index);
    let mut kind = word(0).map_or("", String::as_str).chars();
    let action = kind
        .next()
        .and_then(Action::from_letter)
        .ok_or_else(|| error("the type is not known"))?;
    let modifiers: String = kind.collect();
    if !modifiers.chars().all(|c| "+!-=~^$?".contains(c)) {
        return Err(error("a modifier of the type is not known"));
    }
    let path = word(1)
        .filter(|path| path.starts_with(['/', '%']))
        .ok_or_else(|| error("the path is not absolute"))?;
    let mode = match non_empty(word(2)) {
        Some(mode) => Some(parse_mode(mode).ok_or_else(|| error("the mode is not octal"))?),
        None => None,
    };
    Ok(Rule {
        action,
        modifiers,
        path: path_of(path),
        mode,
        user: non_empty(word(3)).map(owner),
        group: non_empty(word(4)).map(owner),
        age: non_empty(word(5)).map(str::to_owned),
        argument: (!matches!(argument, "" | "-")).then(|| argument.to_owned()),
    })
}

/// Normalises the path of a rule. A path that starts with a specifier (`%t/x`) stays as written.
fn path_of(path: &str) -> PathBuf {
    if !path.starts_with('/') {
        return path.into();
    }
    let path = normalize(Path::new(path));
    // systemd-tmpfiles replaces the old name too.
    match path.strip_prefix("/var/run") {
        Ok(rest) => normalize(&Path::new("/run").join(rest)),
        Err(_) => path,
    }
}

fn parse_mode(mode: &str) -> Option<Mode> {
    let digits = mode.trim_start_matches(['~', ':']);
    let prefix = &mode[..mode.len() - digits.len()];
    let bits = u32::from_str_radix(digits, 8)
        .ok()
        .filter(|bits| *bits <= 0o7777)?;
    Some(Mode {
        bits,
        masked: prefix.contains('~'),
        only_new: prefix.contains(':'),
    })
}

fn owner(owner: &str) -> Owner {
    match owner.strip_prefix(':') {
        Some(name) => Owner {
            name: name.into(),
            only_new: true,
        },
        None => Owner {
            name: owner.into(),
            only_new: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(bits: u32) -> Option<Mode> {
        Some(Mode {
            bits,
            masked: false,
            only_new: false,
        })
    }

    fn named(name: &str) -> Option<Owner> {
        Some(Owner {
            name: name.into(),
            only_new: false,
        })
    }

    #[test]
    fn a_line_has_seven_fields() {
        let rule = parse_rule("d /var/run/a 0755 web :adm 10d -").unwrap();
        assert_eq!(
            rule,
            Rule {
                action: Action::Directory,
                modifiers: String::new(),
                path: "/run/a".into(),
                mode: mode(0o755),
                user: named("web"),
                group: Some(Owner {
                    name: "adm".into(),
                    only_new: true
                }),
                age: Some("10d".into()),
                argument: None,
            }
        );
        let rule = parse_rule("f+! \"/run/a b\" :~2640 - - - one  two").unwrap();
        assert_eq!((rule.action, rule.modifiers.as_str()), (Action::File, "+!"));
        assert_eq!(rule.path, Path::new("/run/a b"));
        assert_eq!(
            rule.mode,
            Some(Mode {
                bits: 0o2640,
                masked: true,
                only_new: true
            })
        );
        assert_eq!((rule.user, rule.group, rule.age), (None, None, None));
        assert_eq!(rule.argument.as_deref(), Some("one  two"));
        assert_eq!(
            parse_rule("x /tmp/a-%b-*").unwrap().path,
            Path::new("/tmp/a-%b-*")
        );
        assert_eq!(parse_rule("D %t/a").unwrap().path, Path::new("%t/a"));
    }

    #[test]
    fn invalid_lines_have_a_reason() {
        for (line, problem) in [
            ("k /run/a", "the type is not known"),
            ("d& /run/a", "a modifier of the type is not known"),
            ("d run/a", "the path is not absolute"),
            ("d", "the path is not absolute"),
            ("d /run/a 0999", "the mode is not octal"),
            ("d /run/a 77777", "the mode is not octal"),
            ("d \"/run/a", "a quote or an escape is not finished"),
        ] {
            assert_eq!(parse_rule(line).unwrap_err().problem, problem, "{line}");
        }
    }

    #[test]
    fn every_rule_of_a_real_root_is_valid() {
        let files = conf_d::read(Path::new("/"), "tmpfiles.d").unwrap();
        if files.is_empty() {
            println!("SKIP: this system has no tmpfiles.d");
        }
        for (path, content) in files {
            for line in content
                .lines()
                .map(str::trim)
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
            {
                assert!(parse_rule(line).is_ok(), "{}: {line}", path.display());
            }
        }
    }
}
