//! Ownership of paths by the packages of a service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::conventions::Conventions;
use super::{Service, is_shared};
use crate::error::Result;
use crate::facts::package::{PackageDb, PackageName};
use crate::facts::unit::UnitName;

/// Directories of programs that install packages. A service that merely asks which version is installed depends on none of them.
const PACKAGE_LISTS: [&str; 5] = [
    "/var/lib/apt",
    "/var/lib/aptitude",
    "/var/lib/dnf",
    "/var/lib/zypp",
    "/var/lib/pacman",
];

/// Databases of packages; many packages depend on the program that keeps one.
const PACKAGE_DATABASES: [&str; 2] = ["/var/lib/dpkg", "/var/lib/rpm"];

/// Source of the facts about who owns a path.
#[derive(Debug)]
pub(super) enum Ownership {
    /// Database of the host's packages.
    Database(Box<dyn PackageDb>),
    /// Names and accounts, on a host without a database that can be read.
    Conventions(Conventions),
}

impl Service {
    /// Returns true if a package database says what belongs to the service.
    #[must_use]
    pub fn has_database(&self) -> bool {
        matches!(self.ownership, Ownership::Database(_))
    }

    fn database(&self) -> Option<&dyn PackageDb> {
        match &self.ownership {
            Ownership::Database(database) => Some(database.as_ref()),
            Ownership::Conventions(_) => None,
        }
    }

    /// Returns true if a package of the service ships `path`.
    #[must_use]
    pub fn ships(&self, path: &Path) -> bool {
        if let Ownership::Conventions(conventions) = &self.ownership {
            return conventions.ships(path);
        }
        self.owners(path)
            .iter()
            .any(|owner| self.packages.contains_key(owner))
    }

    /// Returns true if a secret at `path` belongs to the service: its packages ship it, or are the only users of a directory
    /// above it. A package that merely shares a directory with the service counts only within that directory.
    #[must_use]
    pub fn may_see(&self, path: &Path) -> bool {
        if let Ownership::Conventions(conventions) = &self.ownership {
            return conventions.owns(path);
        }
        let is_own = |owner: &PackageName| {
            let shared = self.sharing.get(owner);
            self.packages.contains_key(owner)
                && shared.is_none_or(|shared| path.starts_with(shared))
        };
        let are_own = |users: Vec<PackageName>| !users.is_empty() && users.iter().all(is_own);
        self.owners(path).iter().any(is_own)
            || path.ancestors().any(|dir| are_own(self.users_of(dir)))
    }

    /// Returns true if a package belongs to the service only because it shares a directory with it.
    #[must_use]
    pub fn is_sharing(&self, package: &PackageName) -> bool {
        self.sharing.contains_key(package)
    }

    /// Returns the packages that ship `path`.
    #[must_use]
    pub fn owners(&self, path: &Path) -> Vec<PackageName> {
        self.database()
            .and_then(|database| database.owners(path).ok())
            .unwrap_or_default()
    }

    /// Returns true if only packages of the service use the directory `path` (of the first three levels).
    #[must_use]
    pub fn has_to_itself(&self, path: &Path) -> bool {
        if let Ownership::Conventions(conventions) = &self.ownership {
            return conventions.owns(path);
        }
        let users = self.users_of(path);
        !users.is_empty() && users.iter().all(|user| self.packages.contains_key(user))
    }

    /// Returns true if a package of another service uses the directory `path`.
    pub(super) fn is_of_others(&self, path: &Path) -> bool {
        if let Ownership::Conventions(conventions) = &self.ownership {
            return conventions.is_of_others(path);
        }
        // Everything below a directory of another package belongs to that package too.
        path.ancestors()
            .filter(|ancestor| !is_shared(ancestor))
            .any(|ancestor| {
                let users = self.users_of(ancestor);
                !users.is_empty() && !users.iter().any(|user| self.packages.contains_key(user))
            })
    }

    fn users_of(&self, path: &Path) -> Vec<PackageName> {
        self.database()
            .and_then(|database| database.users_of_directory(path).ok())
            .unwrap_or_default()
    }

    /// Returns a requested unit that maintains the packages of the host, with its package and the directory that it works on: it belongs
    /// to a package manager, or directly depends on one.
    ///
    /// # Errors
    /// The package database cannot be read.
    pub fn maintains_packages(&self) -> Result<Option<(&UnitName, PackageName, &'static str)>> {
        let Some(database) = self.database() else {
            return Ok(None);
        };
        for unit in &self.units {
            let member = self.closure.member(unit);
            let Some(loaded) = member.and_then(|member| member.loaded.as_deref()) else {
                continue;
            };
            for package in database.owners(loaded.0.source.path())? {
                let mut needed = database.info(&package)?.dependencies;
                needed.push(package.clone());
                for directory in PACKAGE_LISTS {
                    let users = database.users_of_directory(Path::new(directory))?;
                    if users.iter().any(|user| needed.contains(user)) {
                        return Ok(Some((unit, package, directory)));
                    }
                }
                for directory in PACKAGE_DATABASES {
                    if database
                        .users_of_directory(Path::new(directory))?
                        .contains(&package)
                    {
                        return Ok(Some((unit, package, directory)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns the directories below `/var` and `/srv` that dependencies ship, or that programs name if packages are unknown; each
    /// with the reason, in the order of their paths.
    ///
    /// # Errors
    /// The package database cannot be read.
    pub fn directories_of_dependencies(&self) -> Result<BTreeMap<PathBuf, String>> {
        let database = match &self.ownership {
            Ownership::Database(database) => database,
            Ownership::Conventions(conventions) => {
                let named = conventions.named.iter();
                return Ok(named
                    .map(|(path, program)| {
                        (path.clone(), format!("named in '{}'", program.display()))
                    })
                    .collect());
            }
        };
        let mut directories = BTreeMap::new();
        for package in &self.dependencies {
            for path in database.files(package)? {
                if path.starts_with("/var") || path.starts_with("/srv") {
                    directories
                        .entry(path)
                        .or_insert_with(|| format!("package {package}"));
                }
            }
        }
        Ok(directories)
    }

    /// Returns the versions of its packages.
    ///
    /// # Errors
    /// The package database cannot be read.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let Some(database) = self.database() else {
            return Ok(BTreeMap::new());
        };
        let mut versions = BTreeMap::new();
        for package in self.packages.keys() {
            versions.insert(package.to_string(), database.info(package)?.version.clone());
        }
        Ok(versions)
    }

    pub(super) fn scripts(&self) -> Result<Vec<(PackageName, String)>> {
        let Some(database) = self.database() else {
            return Ok(vec![]);
        };
        self.packages
            .keys()
            .map(|package| Ok((package.clone(), database.scripts(package)?)))
            .collect()
    }
}
