//! Conventions that say what belongs to a service where no package database can be read.
//!
//! Packages follow file-hierarchy(7): what a service owns in `/etc` and `/var` has its name, or that of its account. An account of
//! the service is named by its unit, or in a setting such as `user www-data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::text::{read_program, read_text};
use super::{FIRST_PACKAGE_UID, is_shared, members};
use crate::error::Result;
use crate::facts::accounts::{Accounts, User};
use crate::facts::package::{Comments, mentioned_paths};
use crate::facts::unit::facts::exec::ExecPhase;
use crate::facts::unit::{Closure, UnitFacts};
use crate::sys::path::below;
use crate::sys::root::Root;

/// Directories in which services have places of their own.
const TOPS: [&str; 8] = [
    "/etc",
    "/etc/conf.d",
    "/etc/default",
    "/etc/sysconfig",
    "/var/lib",
    "/var/spool",
    "/var/cache",
    "/var/log",
];

/// Names in these directories that belong to the system, whichever service is named like them.
const OF_SYSTEM: [&str; 16] = [
    "alternatives",
    "conf.d",
    "default",
    "init.d",
    "misc",
    "network",
    "pam.d",
    "pki",
    "private",
    "profile.d",
    "security",
    "skel",
    "ssl",
    "sysconfig",
    "systemd",
    "xdg",
];

/// Uid of the first account of a person (`UID_MIN`, login.defs(5)).
const FIRST_PERSON: u32 = 1000;

/// Names, places and accounts of a service.
#[derive(Debug, Default)]
pub(super) struct Conventions {
    /// Names of its units and of its accounts.
    names: BTreeSet<String>,
    /// Files and directories of these names, each with the name.
    pub(super) places: BTreeMap<PathBuf, String>,
    /// Accounts that its units, their settings or the owners of its places name.
    pub(super) users: BTreeSet<String>,
    /// Directories in `/var` and `/srv` that its programs name, each with the program.
    pub(super) named: BTreeMap<PathBuf, PathBuf>,
    /// Directories that belong to accounts of other services.
    foreign: BTreeSet<PathBuf>,
}

impl Conventions {
    /// Collects the conventions of the units in `closure`, whose workload may be `programs`, on the host below `root`.
    ///
    /// # Errors
    /// The root cannot be opened.
    pub(super) fn of(
        root: &Path,
        closure: &Closure,
        programs: &[PathBuf],
        accounts: &Accounts,
    ) -> Result<Self> {
        let host = Root::of_host(root)?;
        let mut found = Self::default();
        for (unit, facts) in members(closure) {
            let names = unit.aliases.iter().chain([&unit.name]);
            found
                .names
                .extend(names.map(|name| name.prefix().to_owned()));
            found.users.extend(accounts_of_unit(&host, facts, accounts));
        }
        for name in programs.iter().filter_map(|program| program.file_name()) {
            found.names.insert(name.to_string_lossy().into_owned());
        }
        found.names.extend(found.users.iter().cloned());
        found.find_places(root);
        found.find_accounts(&host, accounts);
        found.find_foreign(root, accounts);
        let of_units = members(closure).flat_map(|(_, facts)| programs_of(facts));
        for program in programs.iter().cloned().chain(of_units) {
            found.search_program(root, &host, &program);
        }
        Ok(found)
    }

    /// Returns true if `path` is a place of the service, or in one.
    pub(super) fn owns(&self, path: &Path) -> bool {
        path.ancestors().any(|dir| self.places.contains_key(dir))
    }

    /// Returns true if the service owns `path`, or the file has its name: `/etc/cron.d/NAME`, `/usr/lib/tmpfiles.d/NAME.conf`.
    pub(super) fn ships(&self, path: &Path) -> bool {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        self.owns(path) || stem.is_some_and(|stem| self.names.contains(stem))
    }

    /// Returns true if `path` is in a directory that belongs to the account of another service.
    pub(super) fn is_of_others(&self, path: &Path) -> bool {
        path.ancestors().any(|dir| self.foreign.contains(dir))
    }

    fn find_places(&mut self, root: &Path) {
        for (path, _) in entries(root) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let plain = name.strip_suffix(".conf").unwrap_or(name).to_owned();
            if self.names.contains(&plain)
                && !OF_SYSTEM.contains(&plain.as_str())
                && !is_shared(&path)
            {
                self.places.insert(path, plain);
            }
        }
    }

    /// Adds the owners of its places, and the accounts in their settings.
    fn find_accounts(&mut self, host: &Root, accounts: &Accounts) {
        for place in self.places.keys() {
            let is_configuration = place.starts_with("/etc");
            let objects = host.walk(place, |path| !is_configuration && path != place);
            for object in objects.filter_map(|object| object.ok()) {
                let owners = users_of(object.metadata.uid(), accounts);
                self.users.extend(owners.map(|user| user.name.clone()));
                if is_configuration && object.metadata.is_file() {
                    let text = read_text(host, &object.path).filter(|(_, is_of_root)| *is_of_root);
                    self.users.extend(
                        text.into_iter()
                            .flat_map(|(text, _)| accounts_in_settings(&text, accounts)),
                    );
                }
            }
        }
    }

    fn find_foreign(&mut self, root: &Path, accounts: &Accounts) {
        for (path, metadata) in entries(root) {
            let mut owners = users_of(metadata.uid(), accounts).peekable();
            let is_foreign =
                owners.peek().is_some() && !owners.any(|user| self.users.contains(&user.name));
            if is_foreign && !self.owns(&path) {
                self.foreign.insert(path);
            }
        }
    }

    /// Adds the directories that a program of root names.
    fn search_program(&mut self, root: &Path, host: &Root, program: &Path) {
        let Some(text) = read_program(host, program).map(|content| lines_with_paths(&content))
        else {
            return;
        };
        for path in mentioned_paths(&text, Comments::Skip) {
            if !path.starts_with("/var") && !path.starts_with("/srv") {
                continue;
            }
            let directory = path.ancestors().find(|dir| below(root, dir).is_dir());
            if let Some(directory) = directory.filter(|dir| !is_shared(dir)) {
                self.named
                    .entry(directory.to_owned())
                    .or_insert_with(|| program.to_owned());
            }
        }
    }
}

/// Returns what is directly in [`TOPS`].
fn entries(root: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> {
    TOPS.iter().flat_map(move |top| {
        let entries = fs::read_dir(below(root, Path::new(top)))
            .into_iter()
            .flatten();
        entries.flatten().filter_map(move |entry| {
            let metadata = entry.metadata().ok()?;
            Some((Path::new(top).join(entry.file_name()), metadata))
        })
    })
}

/// Returns the accounts of services.
fn of_services(accounts: &Accounts) -> impl Iterator<Item = &User> {
    let users = accounts.users.iter();
    users.filter(|user| (FIRST_PACKAGE_UID..FIRST_PERSON).contains(&user.uid))
}

/// Returns the accounts of services with this uid.
fn users_of(uid: u32, accounts: &Accounts) -> impl Iterator<Item = &User> {
    of_services(accounts).filter(move |user| user.uid == uid)
}

/// Returns the accounts of services that a unit names: as its own, in its arguments, or in a file with variables for them.
fn accounts_of_unit(host: &Root, unit: &UnitFacts, accounts: &Accounts) -> BTreeSet<String> {
    let arguments = unit.commands.iter().flat_map(|command| &command.args);
    let values = unit.environment.iter().map(|(_, value)| value);
    let mut texts: Vec<String> = arguments.chain(values).cloned().collect();
    texts.extend(unit.user.clone());
    let files = unit.environment_files.iter();
    texts.extend(files.filter_map(|file| match read_text(host, &file.path)? {
        (text, true) => Some(active(&text).collect::<Vec<_>>().join("\n")),
        (_, false) => None,
    }));
    let words: BTreeSet<&str> = texts.iter().flat_map(|text| words(text)).collect();
    known(&words, accounts).collect()
}

/// Returns the accounts of services in settings of a user: `user www-data;`, `export APACHE_RUN_USER=www-data`.
fn accounts_in_settings(text: &str, accounts: &Accounts) -> BTreeSet<String> {
    let settings = active(text).filter_map(|line| {
        let mut words = words(line);
        let is_setting = |word: &str| word.to_ascii_lowercase().contains("user");
        words.by_ref().take(2).any(is_setting).then_some(words)
    });
    known(&settings.flatten().collect(), accounts).collect()
}

fn known<'a>(
    words: &'a BTreeSet<&'a str>,
    accounts: &'a Accounts,
) -> impl Iterator<Item = String> + 'a {
    of_services(accounts)
        .filter(|user| words.contains(user.name.as_str()))
        .map(|user| user.name.clone())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)))
        .filter(|word| !word.is_empty())
}

/// Returns the lines that are no comments.
fn active(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']) && !line.starts_with("//"))
}

fn programs_of(unit: &UnitFacts) -> impl Iterator<Item = PathBuf> {
    let commands = unit.commands.iter();
    commands
        .filter(|command| matches!(command.phase, ExecPhase::StartPre | ExecPhase::Start))
        .map(|command| PathBuf::from(&command.program))
        .filter(|program| program.is_absolute())
}

/// Returns the lines of a program that name `/var` or `/srv`.
fn lines_with_paths(content: &[u8]) -> String {
    let is_text = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t');
    let lines = content
        .split(|byte| !is_text(byte))
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| line.contains("/var/") || line.contains("/srv/"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::accounts::Texts;

    fn accounts() -> Accounts {
        Accounts::parse(&Texts {
            passwd: "root:x:0:0::/:\nwww:x:33:33::/:\nbind:x:105:105::/:\ncache:x:106:106::/:\nalice:x:1000:1000::/:\n".into(),
            ..Texts::default()
        })
    }

    #[test]
    fn accounts_are_found_in_settings_of_a_user() {
        for (text, expected) in [
            ("user bind;", &["bind"][..]),
            ("export RUN_USER=bind", &["bind"]),
            (
                "default_internal_user = bind\n\tusername: \"cache\"",
                &["bind", "cache"],
            ),
            ("# user bind\n; user bind\n// user bind", &[]),
            ("user root\nuser alice\nuser www", &[]),
            ("include bind", &[]),
        ] {
            let found = accounts_in_settings(text, &accounts());
            assert_eq!(
                found,
                expected.iter().map(ToString::to_string).collect(),
                "{text}"
            );
        }
    }

    #[test]
    fn directories_of_the_system_belong_to_no_service() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "etc/ssl",
            "etc/web",
            "etc/web-other",
            "var/lib/web",
            "var/log/private",
        ] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        fs::write(root.path().join("etc/web.conf"), "").unwrap();
        let names = ["web", "ssl", "private"].map(str::to_owned);
        let mut found = Conventions {
            names: names.into(),
            ..Conventions::default()
        };
        found.find_places(root.path());
        let places: Vec<&str> = found
            .places
            .keys()
            .filter_map(|path| path.to_str())
            .collect();
        assert_eq!(places, ["/etc/web", "/etc/web.conf", "/var/lib/web"]);
        assert!(found.owns(Path::new("/etc/web/a")) && !found.owns(Path::new("/etc/ssl/a")));
        assert!(found.ships(Path::new("/usr/lib/tmpfiles.d/web.conf")));
        assert!(!found.ships(Path::new("/etc/cron.d/web-other")));
    }
}
