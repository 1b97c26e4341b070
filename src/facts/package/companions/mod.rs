//! Companions: other packages that hold part of a service's configuration.
//!
//! Each rule rests on a fact of the package database. Callers decide how to use the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::{PackageDb, PackageName, Result, canonical, dependency_closure};

/// Maximum number of source packages that share a directory; one with more is common to all (`/etc/default`).
const FEW_SOURCES: usize = 4;

/// Directories with files for the maintainer scripts of other packages: helpers, defaults, registries.
const SCRIPTED: &[&str] = &["/etc", "/usr/etc", "/var/lib", "/usr/share", "/usr/lib"];

/// Directories with configuration: that of the administrator, and on openSUSE that of the distribution.
const CONFIGURATION: &[&str] = &["/etc", "/usr/etc"];

/// Package that is configured together with a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companion {
    /// The package.
    pub package: PackageName,
    /// Reason for it.
    pub reason: Reason,
}

/// Reason why a package is a companion. Its text is a short phrase that follows the name of the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Both have the same source package, and one depends on the other.
    SameSource {
        /// The source package.
        source: String,
        /// Package that it accompanies.
        of: PackageName,
    },
    /// Both ship files in a directory that few packages use, and one depends on the other.
    SharedDirectory {
        /// The directory.
        directory: PathBuf,
        /// Package that shares the directory.
        with: PackageName,
    },
    /// The service's package depends on it and uses one of its directories in maintainer scripts.
    UsedByScripts {
        /// The directory.
        directory: PathBuf,
        /// Package with the scripts.
        by: PackageName,
    },
    /// A dependant of the service's package uses one of its directories in maintainer scripts.
    ScriptsUse {
        /// The directory.
        directory: PathBuf,
        /// Package that ships the directory.
        of: PackageName,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameSource { source, of } => {
                write!(f, "is built from source '{source}' like {of}")
            }
            Self::SharedDirectory { directory, with } => {
                write!(f, "shares '{}' with {with}", directory.display())
            }
            Self::UsedByScripts { directory, by } => {
                write!(
                    f,
                    "ships '{}', which the maintainer scripts of {by} use",
                    directory.display()
                )
            }
            Self::ScriptsUse { directory, of } => {
                write!(
                    f,
                    "uses '{}' of {of} in its maintainer scripts",
                    directory.display()
                )
            }
        }
    }
}

/// Returns the installed packages that hold part of the configuration of a service whose unit the given packages
/// ship; sorted, without the given ones.
///
/// Down along dependencies: packages of the same source, packages that share a directory below /etc, and packages
/// whose directories the service's own maintainer scripts use. Upwards, along direct reverse dependencies: a
/// unit often comes in a wrapper package that the working packages (or plug-ins) depend on. They have
/// the same source, share its directory in /etc or /var/lib, or use its files in their scripts.
pub fn configuration_packages(
    db: &dyn PackageDb,
    service: &[PackageName],
) -> Result<Vec<Companion>> {
    let mut found = Found::default();
    let closure = dependency_closure(db, service)?;
    let mut wrappers = Vec::new();
    for package in service {
        let info = db.info(package)?;
        let of_source = same_source(db, &closure, service, &info.source)?;
        for relative in &of_source {
            let reason = Reason::SameSource {
                source: info.source.clone(),
                of: package.clone(),
            };
            found.add(relative.clone(), reason);
        }
        // Every package depends on the base system, so such a dependency has no meaning.
        if !info.base {
            wrappers.push(package.clone());
            wrappers.extend(of_source);
        }
    }
    let etc = own_directories(db, &wrappers, CONFIGURATION)?;
    found.add_sharing(db, &etc, &closure, service)?;
    found.add_used_by_scripts(db, service, &wrappers)?;

    let upper = above(db, service, &wrappers, &mut found)?;

    // A plug-in of the service has its own configuration.
    let etc = own_directories(db, &upper, CONFIGURATION)?;
    found.add_sharing(db, &etc, &dependency_closure(db, &upper)?, service)?;
    Ok(found
        .0
        .into_iter()
        .map(|(package, reason)| Companion { package, reason })
        .collect())
}

/// Companions found so far, each with its first reason.
#[derive(Default)]
struct Found(BTreeMap<PackageName, Reason>);

impl Found {
    fn add(&mut self, package: PackageName, reason: Reason) {
        self.0.entry(package).or_insert(reason);
    }

    /// Adds the `candidates` that use one of the directories.
    fn add_sharing(
        &mut self,
        db: &dyn PackageDb,
        directories: &OwnDirectories,
        candidates: &BTreeSet<PackageName>,
        service: &[PackageName],
    ) -> Result<()> {
        for (directory, with) in directories {
            for user in db.users_of_directory(directory)? {
                if candidates.contains(&user) && user != *with && !service.contains(&user) {
                    self.add(
                        user,
                        Reason::SharedDirectory {
                            directory: directory.clone(),
                            with: with.clone(),
                        },
                    );
                }
            }
        }
        Ok(())
    }

    /// Adds the direct dependencies of the wrappers whose directories the service's scripts use.
    fn add_used_by_scripts(
        &mut self,
        db: &dyn PackageDb,
        service: &[PackageName],
        wrappers: &[PackageName],
    ) -> Result<()> {
        let mut dependencies = BTreeSet::new();
        for wrapper in wrappers {
            dependencies.extend(db.info(wrapper)?.dependencies);
        }
        dependencies.retain(|package| !service.contains(package) && !self.0.contains_key(package));
        for package in dependencies {
            let directories = own_directories(db, std::slice::from_ref(&package), SCRIPTED)?;
            for by in service {
                if let Some((directory, _)) = mentioned(&directories, &db.scripts(by)?) {
                    let reason = Reason::UsedByScripts {
                        directory: directory.clone(),
                        by: by.clone(),
                    };
                    self.add(package.clone(), reason);
                }
            }
        }
        Ok(())
    }
}

fn same_source(
    db: &dyn PackageDb,
    candidates: &BTreeSet<PackageName>,
    service: &[PackageName],
    source: &str,
) -> Result<Vec<PackageName>> {
    let mut same = Vec::new();
    for candidate in candidates {
        if !service.contains(candidate) && db.info(candidate)?.source == source {
            same.push(candidate.clone());
        }
    }
    Ok(same)
}

/// Adds the packages that depend on the wrappers, and returns them.
fn above(
    db: &dyn PackageDb,
    service: &[PackageName],
    wrappers: &[PackageName],
    found: &mut Found,
) -> Result<Vec<PackageName>> {
    let mut candidates = BTreeSet::new();
    for wrapper in wrappers {
        candidates.extend(db.dependants(wrapper)?);
    }
    candidates.retain(|package| !service.contains(package) && !found.0.contains_key(package));

    let mut sources = BTreeMap::new();
    for package in service.iter().filter(|package| wrappers.contains(package)) {
        sources.insert(db.info(package)?.source, package.clone());
    }
    let state = own_directories(db, wrappers, &["/etc", "/usr/etc", "/var/lib"])?;
    let scripted = own_directories(db, wrappers, SCRIPTED)?;
    let mut upper = Vec::new();
    for package in candidates {
        let info = db.info(&package)?;
        let reason = if let Some(of) = sources
            .get(&info.source)
            .filter(|of| info.dependencies.contains(of))
        {
            let of = of.clone();
            Some(Reason::SameSource {
                source: info.source,
                of,
            })
        } else if let Some(reason) = shared(db, &state, &package)? {
            Some(reason)
        } else {
            mentioned(&scripted, &db.scripts(&package)?).map(|(directory, of)| Reason::ScriptsUse {
                directory: directory.clone(),
                of: of.clone(),
            })
        };
        if let Some(reason) = reason {
            found.add(package.clone(), reason);
            upper.push(package);
        }
    }
    Ok(upper)
}

/// Directories that few packages use, each with one of the given packages that use it.
type OwnDirectories = BTreeMap<PathBuf, PackageName>;

/// Returns the directories directly below one of `tops` that the packages use, and that neither many sources nor the base
/// system use.
fn own_directories(
    db: &dyn PackageDb,
    packages: &[PackageName],
    tops: &[&str],
) -> Result<OwnDirectories> {
    let mut own = OwnDirectories::new();
    let mut everybodys = BTreeSet::new();
    for package in packages {
        for file in db.files(package)? {
            let Some(directory) = tops.iter().find_map(|top| directly_below(top, &file)) else {
                continue;
            };
            if own.contains_key(&directory) || everybodys.contains(&directory) {
                continue;
            }
            if is_own(db, &directory)? {
                own.insert(directory, package.clone());
            } else {
                everybodys.insert(directory);
            }
        }
    }
    Ok(own)
}

fn directly_below(top: &str, file: &Path) -> Option<PathBuf> {
    let file = canonical(file);
    let name = file.strip_prefix(top).ok()?.components().next()?;
    Some(Path::new(top).join(name))
}

fn is_own(db: &dyn PackageDb, directory: &Path) -> Result<bool> {
    let mut sources = BTreeSet::new();
    for user in db.users_of_directory(directory)? {
        let user = db.info(&user)?;
        if user.base {
            return Ok(false);
        }
        sources.insert(user.source);
    }
    Ok(sources.len() <= FEW_SOURCES)
}

fn shared(
    db: &dyn PackageDb,
    own: &OwnDirectories,
    package: &PackageName,
) -> Result<Option<Reason>> {
    for (directory, with) in own {
        if with != package && db.users_of_directory(directory)?.contains(package) {
            return Ok(Some(Reason::SharedDirectory {
                directory: directory.clone(),
                with: with.clone(),
            }));
        }
    }
    Ok(None)
}

/// Returns the first of the directories that occurs in the scripts.
fn mentioned<'a>(
    directories: &'a OwnDirectories,
    scripts: &str,
) -> Option<(&'a PathBuf, &'a PackageName)> {
    directories
        .iter()
        .find(|(directory, _)| mentions_below(scripts, directory))
}

/// Returns true if a text contains the directory or a path in it, and not merely a longer name.
fn mentions_below(text: &str, directory: &Path) -> bool {
    let Some(directory) = directory.to_str() else {
        return false;
    };
    text.match_indices(directory).any(|(at, found)| {
        let continues = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
        !text[at + found.len()..].starts_with(continues)
    })
}

#[cfg(test)]
mod tests;
