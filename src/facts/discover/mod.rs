//! What belongs to a service: its units, its packages, its accounts, and the paths that any of these name.
//!
//! Which paths those are is told by `paths`, and which of them an account may name by `readers`.
//!
//! Only facts of the host are read: unit files, the package database, `tmpfiles.d` and `sysusers.d`, the service's own
//! configuration. What is made of a path is decided by [`tree`](crate::tree).

mod paths;
mod readers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

pub use self::paths::{Fact, below, is_shared};
pub use self::readers::Readers;

use crate::error::{Error, Result};
use crate::facts::accounts::{Accounts, Needed, Texts};
use crate::facts::package::{
    self, PackageDb, PackageName, configuration_packages, dependency_closure,
};
use crate::facts::sysusers::{self, Entry};
use crate::facts::unit::special::Role;
use crate::facts::unit::{
    self, Closure, LoadError, Specifiers, Unit, UnitDirs, UnitFacts, UnitName,
};

/// All that is known of a service.
#[derive(Debug)]
pub struct Service {
    /// The units asked for, with aliases followed.
    pub units: Vec<UnitName>,
    /// Those and the units they pull in.
    pub closure: Closure,
    /// Its packages, and why each is one.
    pub packages: BTreeMap<PackageName, String>,
    /// Packages that are the service's only because they share a directory with it; the value is the directory.
    sharing: BTreeMap<PackageName, PathBuf>,
    /// The packages those depend on.
    pub dependencies: BTreeSet<PackageName>,
    /// Names of its accounts.
    pub users: BTreeSet<String>,
    /// Names of groups its units use.
    pub groups: BTreeSet<String>,
    /// Every account of the host.
    pub accounts: Accounts,
    /// Paths that are its own, each with the first fact that says so.
    pub paths: BTreeMap<PathBuf, Fact>,
    /// Paths that its active configuration names, whomever they belong to.
    pub named: BTreeMap<PathBuf, PathBuf>,
    database: Option<Box<dyn PackageDb>>,
}

/// Accounts below this number are shared by many packages (`www-data`, `mail`): what they own on the host says little.
const FIRST_PACKAGE_UID: u32 = 100;

impl Service {
    /// Gathers the facts of `units`, with `extra` packages named by the user, from the host below `root`.
    ///
    /// # Errors
    /// A unit that is not there (with names like it), is masked, or needs one that is missing; a package that is not
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
            return Err(missing(&mut closure));
        }
        let units = asked
            .iter()
            .map(|name| {
                closure
                    .member(name)
                    .map_or_else(|| name.clone(), |member| member.name.clone())
            })
            .collect();

        Self::gather(root, (units, closure), read_accounts(root), &[], extra)
    }

    /// Gathers the facts of a unit that is none of the host's, which runs `programs` with `accounts`.
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
        Self::gather(root, (units, closure), accounts, programs, extra)
    }

    fn gather(
        root: &Path,
        (units, closure): (Vec<UnitName>, Closure),
        accounts: Accounts,
        programs: &[PathBuf],
        extra: &[String],
    ) -> Result<Self> {
        let database = package::open(root)?;
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
            database,
        };
        service.find_packages(programs, extra)?;
        service.find_users(root)?;
        service.find_paths(root, programs)?;
        Ok(service)
    }

    /// The units with facts of their own, systemd's excepted.
    pub fn members(&self) -> impl Iterator<Item = &UnitFacts> {
        self.closure
            .members
            .iter()
            .filter(|member| member.role == Role::Service)
            .filter_map(|member| Some(&member.loaded.as_ref()?.1))
    }

    /// Whether `path` is shipped by a package of the service.
    #[must_use]
    pub fn ships(&self, path: &Path) -> bool {
        self.owners(path)
            .iter()
            .any(|owner| self.packages.contains_key(owner))
    }

    /// Whether what is secret at `path` is the service's: its packages ship it, or have a directory above it to themselves. Of one that
    /// merely shares a directory with it, what is in that directory alone.
    #[must_use]
    pub fn may_see(&self, path: &Path) -> bool {
        let is_own = |owner: &PackageName| {
            let shared = self.sharing.get(owner);
            self.packages.contains_key(owner)
                && shared.is_none_or(|shared| path.starts_with(shared))
        };
        let are_own = |users: Vec<PackageName>| !users.is_empty() && users.iter().all(is_own);
        self.owners(path).iter().any(is_own)
            || path.ancestors().any(|dir| are_own(self.users_of(dir)))
    }

    /// Whether a package is the service's only because it shares a directory with it.
    #[must_use]
    pub fn is_sharing(&self, package: &PackageName) -> bool {
        self.sharing.contains_key(package)
    }

    /// The packages that ship `path`.
    #[must_use]
    pub fn owners(&self, path: &Path) -> Vec<PackageName> {
        self.database
            .as_ref()
            .and_then(|database| database.owners(path).ok())
            .unwrap_or_default()
    }

    /// Whether nobody but packages of the service uses the directory at `path` (of the first three levels).
    #[must_use]
    pub fn has_to_itself(&self, path: &Path) -> bool {
        let users = self.users_of(path);
        !users.is_empty() && users.iter().all(|user| self.packages.contains_key(user))
    }

    /// Whether a package that is not the service's uses the directory at `path`.
    fn is_of_others(&self, path: &Path) -> bool {
        // Everything below a directory of others is theirs too.
        path.ancestors()
            .filter(|ancestor| !is_shared(ancestor))
            .any(|ancestor| {
                let users = self.users_of(ancestor);
                !users.is_empty() && !users.iter().any(|user| self.packages.contains_key(user))
            })
    }

    fn users_of(&self, path: &Path) -> Vec<PackageName> {
        self.database
            .as_ref()
            .and_then(|database| database.users_of_directory(path).ok())
            .unwrap_or_default()
    }

    /// The directories below `/var` and `/srv` that the dependencies ship, in the order of their paths.
    ///
    /// # Errors
    /// Where the package database cannot be read.
    pub fn directories_of_dependencies(&self) -> Result<BTreeMap<PathBuf, PackageName>> {
        let mut directories = BTreeMap::new();
        let Some(database) = &self.database else {
            return Ok(directories);
        };
        for package in &self.dependencies {
            for path in database.files(package)? {
                if path.starts_with("/var") || path.starts_with("/srv") {
                    directories.entry(path).or_insert_with(|| package.clone());
                }
            }
        }
        Ok(directories)
    }

    /// The versions of its packages.
    ///
    /// # Errors
    /// Where the package database cannot be read.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let Some(database) = &self.database else {
            return Ok(BTreeMap::new());
        };
        let mut versions = BTreeMap::new();
        for package in self.packages.keys() {
            versions.insert(package.to_string(), database.info(package)?.version.clone());
        }
        Ok(versions)
    }

    /// The accounts a sandbox of this service keeps, besides those that own what is copied.
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
        let Some(database) = &self.database else {
            return match extra {
                [] => Ok(()),
                [first, ..] => Err(Error::refused(format!(
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

    fn scripts(&self) -> Result<Vec<(PackageName, String)>> {
        let Some(database) = &self.database else {
            return Ok(vec![]);
        };
        self.packages
            .keys()
            .map(|package| Ok((package.clone(), database.scripts(package)?)))
            .collect()
    }
}

fn specifiers(hostname: &str) -> Specifiers {
    Specifiers {
        hostname: Some(hostname.to_owned()),
        ..Specifiers::default()
    }
}

fn missing(closure: &mut Closure) -> Error {
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
        LoadError::Masked { .. } => "; unmask it on the host first",
        LoadError::NotFound { .. }
        | LoadError::Dangling { .. }
        | LoadError::NoInstance { .. }
        | LoadError::Read { .. }
        | LoadError::Scan(_) => "",
    };
    Error::refused(format!("{}{needed}{advice}", first.error))
}

/// The accounts of the host below `root`.
pub(crate) fn read_accounts(root: &Path) -> Accounts {
    let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap_or_default();
    Accounts::parse(&Texts {
        passwd: read("passwd"),
        group: read("group"),
        shadow: read("shadow"),
        gshadow: read("gshadow"),
    })
}
