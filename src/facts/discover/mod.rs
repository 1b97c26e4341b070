//! Discovery of a service: its units, packages and accounts, and the paths that these name.
//!
//! `paths` collects the paths, `ownership` says whose a path is, from a package database or else from `conventions`, and `readers`
//! checks which paths an account may name.
//!
//! The sources are unit files, the package database, `tmpfiles.d`, `sysusers.d` and the service's own
//! configuration. [`tree`](crate::tree) decides how each path enters a sandbox.

mod alternatives;
mod conventions;
mod ownership;
mod passwords;
mod paths;
mod readers;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::conventions::Conventions;
use self::ownership::Ownership;
pub use self::paths::{Fact, is_shared};
pub use self::readers::Readers;

use crate::error::{Error, Result};
use crate::facts::accounts::{Accounts, Needed, Texts};
use crate::facts::package::{self, PackageName, configuration_packages, dependency_closure};
use crate::facts::sysusers::{self, Entry};
use crate::facts::unit::special::Role;
use crate::facts::unit::{
    self, Closure, LoadError, Specifiers, Unit, UnitDirs, UnitFacts, UnitName,
};

/// All facts of a service.
#[derive(Debug)]
pub struct Service {
    /// Requested units, by their canonical names.
    pub units: Vec<UnitName>,
    /// Requested units and those that they pull in.
    pub closure: Closure,
    /// Packages of the service, each with the reason.
    pub packages: BTreeMap<PackageName, String>,
    /// Packages that belong to the service only because they share this directory with it.
    sharing: BTreeMap<PackageName, PathBuf>,
    /// Dependencies of the packages.
    pub dependencies: BTreeSet<PackageName>,
    /// Names of the service's accounts.
    pub users: BTreeSet<String>,
    /// Names of groups that its units use.
    pub groups: BTreeSet<String>,
    /// All accounts of the host.
    pub accounts: Accounts,
    /// Paths that belong to the service, each with the first fact that says so.
    pub paths: BTreeMap<PathBuf, Fact>,
    /// Paths in its active configuration, whoever owns them, each with the file that names it.
    pub named: BTreeMap<PathBuf, PathBuf>,
    ownership: Ownership,
}

/// Lowest uid of an account that belongs to one package; lower ones (`www-data`, `mail`) are shared by many.
const FIRST_PACKAGE_UID: u32 = 100;

impl Service {
    /// Collects the facts of `units`, with `extra` packages named by the user, from the host below `root`.
    ///
    /// # Errors
    /// A unit that does not exist (with similar names), is masked, or requires a missing one; a package that is not
    /// installed; a database that cannot be read.
    pub fn discover(
        root: &Path,
        units: &[String],
        extra: &[String],
        hostname: &str,
    ) -> Result<Self> {
        let dirs = UnitDirs::scan(root).map_err(Error::step("looking for units"))?;
        let specifiers = specifiers(hostname);
        let asked = units
            .iter()
            .map(|text| {
                text.parse::<UnitName>()
                    .map_err(|error| Error::refused(error.to_string()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut closure = unit::closure(&dirs, &asked, &specifiers);
        if !closure.missing.is_empty() {
            return Err(missing(root, &mut closure));
        }
        let units = asked
            .iter()
            .map(|name| {
                closure
                    .member(name)
                    .map_or_else(|| name.clone(), |member| member.name.clone())
            })
            .collect();

        Self::gather(root, units, closure, read_accounts(root), &[], extra)
    }

    /// Collects the facts of a unit that is not the host's and runs `programs` with `accounts`.
    ///
    /// # Errors
    /// A package that is not installed; a database that cannot be read.
    pub(crate) fn of_unit(
        root: &Path,
        unit: Unit,
        programs: &[PathBuf],
        accounts: Accounts,
        extra: &[String],
    ) -> Result<Self> {
        let units = vec![unit.name.clone()];
        let closure = Closure::alone(unit, &Specifiers::default());
        Self::gather(root, units, closure, accounts, programs, extra)
    }

    fn gather(
        root: &Path,
        units: Vec<UnitName>,
        closure: Closure,
        accounts: Accounts,
        programs: &[PathBuf],
        extra: &[String],
    ) -> Result<Self> {
        let ownership = match package::open(root)? {
            Some(database) => Ownership::Database(database),
            None => Ownership::Conventions(Conventions::of(root, &closure, programs, &accounts)?),
        };
        let mut service = Self {
            units,
            closure,
            packages: BTreeMap::new(),
            sharing: BTreeMap::new(),
            dependencies: BTreeSet::new(),
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            accounts,
            paths: BTreeMap::new(),
            named: BTreeMap::new(),
            ownership,
        };
        service.find_packages(programs, extra)?;
        service.find_users(root)?;
        service.find_paths(root, programs)?;
        Ok(service)
    }

    /// Iterates over the loaded units, without systemd's own.
    pub fn members(&self) -> impl Iterator<Item = &UnitFacts> {
        members(&self.closure).map(|(_, facts)| facts)
    }

    /// Returns the accounts that a sandbox of this service keeps, besides the owners of copied files.
    #[must_use]
    pub fn needed_accounts(&self) -> Needed {
        let numbers = |names: &BTreeSet<String>| {
            let parsed = names.iter().filter_map(|name| name.parse().ok());
            parsed.collect()
        };
        Needed {
            uids: numbers(&self.users),
            gids: numbers(&self.groups),
            users: self.users.clone(),
            groups: self.groups.clone(),
        }
    }

    fn find_packages(&mut self, programs: &[PathBuf], extra: &[String]) -> Result<()> {
        let Ownership::Database(database) = &self.ownership else {
            return match extra {
                [] => Ok(()),
                [first, ..] => Err(Error::unsupported(format!(
                    "this host has no package database that can be read, so '{first}' cannot be looked up"
                ))),
            };
        };
        for member in self
            .closure
            .members
            .iter()
            .filter(|member| member.role == Role::Service)
        {
            let Some(loaded) = &member.loaded else {
                continue;
            };
            for owner in database.owners(loaded.0.source.path())? {
                self.packages
                    .entry(owner)
                    .or_insert_with(|| format!("ships {}", member.name));
            }
        }
        for program in programs {
            for owner in database.owners(program)? {
                self.packages
                    .entry(owner)
                    .or_insert_with(|| format!("ships {}", program.display()));
            }
        }
        for name in extra {
            let name = PackageName::from(name.as_str());
            database.info(&name)?;
            self.packages
                .entry(name)
                .or_insert_with(|| "asked for".to_owned());
        }
        let given: Vec<PackageName> = self.packages.keys().cloned().collect();
        for companion in configuration_packages(database.as_ref(), &given)? {
            if let package::Reason::SharedDirectory { directory, .. } = &companion.reason {
                let name = companion.package.clone();
                self.sharing.insert(name, directory.clone());
            }
            self.packages
                .entry(companion.package)
                .or_insert_with(|| companion.reason.to_string());
        }
        let given: Vec<PackageName> = self.packages.keys().cloned().collect();
        self.dependencies = dependency_closure(database.as_ref(), &given)?;
        Ok(())
    }

    fn find_users(&mut self, root: &Path) -> Result<()> {
        let mut users = BTreeSet::new();
        let mut groups = BTreeSet::new();
        for facts in self.members() {
            users.extend(facts.user.clone());
            groups.extend(facts.group.clone());
            groups.extend(facts.supplementary_groups.iter().cloned());
        }
        if let Ownership::Conventions(conventions) = &self.ownership {
            users.extend(conventions.users.iter().cloned());
        }
        let shipped = |path: &Path| self.ships(path);
        let files = sysusers::load(root).map_err(Error::step("reading sysusers.d"))?;
        for entry in files
            .into_iter()
            .filter(|file| shipped(&file.path))
            .flat_map(|file| file.lines)
        {
            match entry {
                Entry::User { name, .. } => {
                    users.insert(name);
                }
                Entry::Group { name, .. } => {
                    groups.insert(name);
                }
                Entry::Member { user, group } => {
                    users.insert(user);
                    groups.insert(group);
                }
                Entry::Range { .. } => {}
            }
        }
        for (_, script) in self.scripts()? {
            let words: BTreeSet<&str> = script
                .split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)))
                .collect();
            users.extend(
                self.accounts
                    .users
                    .iter()
                    .filter(|user| {
                        (FIRST_PACKAGE_UID..1000).contains(&user.uid)
                            && words.contains(user.name.as_str())
                    })
                    .map(|user| user.name.clone()),
            );
        }
        self.users = users;
        self.groups = groups;
        Ok(())
    }
}

/// Iterates over the loaded units of a closure, without systemd's own.
fn members(closure: &Closure) -> impl Iterator<Item = &(Unit, UnitFacts)> {
    let members = closure.members.iter();
    members
        .filter(|member| member.role == Role::Service)
        .filter_map(|member| member.loaded.as_deref())
}

fn specifiers(hostname: &str) -> Specifiers {
    Specifiers {
        hostname: Some(hostname.to_owned()),
        ..Specifiers::default()
    }
}

fn missing(root: &Path, closure: &mut Closure) -> Error {
    let first = closure.missing.remove(0);
    let needed = match &first.reason {
        unit::closure::Reason::Asked => String::new(),
        unit::closure::Reason::RequiredBy(by)
        | unit::closure::Reason::WantedBy(by)
        | unit::closure::Reason::Also(by)
        | unit::closure::Reason::Triggers(by)
        | unit::closure::Reason::TriggeredBy(by) => format!(" (needed by '{by}')"),
    };
    let advice = match &first.error {
        LoadError::Masked { .. } => "; unmask it on the host first".to_owned(),
        LoadError::NotFound { name, .. } => alternatives::hint(root, name),
        LoadError::Dangling { .. }
        | LoadError::NoInstance { .. }
        | LoadError::Read { .. }
        | LoadError::Scan(_) => String::new(),
    };
    let message = format!("{}{needed}{advice}", first.error);
    match &first.error {
        LoadError::NotFound { .. } => Error::not_found(message),
        LoadError::Masked { .. }
        | LoadError::Dangling { .. }
        | LoadError::NoInstance { .. }
        | LoadError::Read { .. }
        | LoadError::Scan(_) => Error::refused(message),
    }
}

/// Reads the accounts of the host below `root`.
pub(crate) fn read_accounts(root: &Path) -> Accounts {
    let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap_or_default();
    Accounts::parse(&Texts {
        passwd: read("passwd"),
        group: read("group"),
        shadow: read("shadow"),
        gshadow: read("gshadow"),
    })
}
