//! Ownership of paths by the packages of a service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Service, is_shared};
use crate::error::Result;
use crate::facts::package::PackageName;

impl Service {
    /// Returns true if a package of the service ships `path`.
    #[must_use]
    pub fn ships(&self, path: &Path) -> bool {
        self.owners(path)
            .iter()
            .any(|owner| self.packages.contains_key(owner))
    }

    /// Returns true if a secret at `path` belongs to the service: its packages ship it, or are the only users of a directory
    /// above it. A package that merely shares a directory with the service counts only within that directory.
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

    /// Returns true if a package belongs to the service only because it shares a directory with it.
    #[must_use]
    pub fn is_sharing(&self, package: &PackageName) -> bool {
        self.sharing.contains_key(package)
    }

    /// Returns the packages that ship `path`.
    #[must_use]
    pub fn owners(&self, path: &Path) -> Vec<PackageName> {
        self.database
            .as_ref()
            .and_then(|database| database.owners(path).ok())
            .unwrap_or_default()
    }

    /// Returns true if only packages of the service use the directory `path` (of the first three levels).
    #[must_use]
    pub fn has_to_itself(&self, path: &Path) -> bool {
        let users = self.users_of(path);
        !users.is_empty() && users.iter().all(|user| self.packages.contains_key(user))
    }

    /// Returns true if a package of another service uses the directory `path`.
    pub(super) fn is_of_others(&self, path: &Path) -> bool {
        // Everything below a directory of another package belongs to that package too.
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

    /// Returns the directories below `/var` and `/srv` that dependencies ship, in the order of their paths.
    ///
    /// # Errors
    /// The package database cannot be read.
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

    /// Returns the versions of its packages.
    ///
    /// # Errors
    /// The package database cannot be read.
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

    pub(super) fn scripts(&self) -> Result<Vec<(PackageName, String)>> {
        let Some(database) = &self.database else {
            return Ok(vec![]);
        };
        self.packages
            .keys()
            .map(|package| Ok((package.clone(), database.scripts(package)?)))
            .collect()
    }
}
