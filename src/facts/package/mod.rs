//! What the package database of a root says about services.
//!
//! Owns the questions ([`PackageDb`]) and the two databases that answer them. Everything is read, nothing is
//! guessed from a package's name. It does not decide what a sandbox gets: callers do, from these facts.
//!
//! All paths are absolute and as the root itself sees them, without the prefix of the root.

mod companions;
mod dpkg;
mod mentions;
mod rpm;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use companions::{Companion, Reason, configuration_packages};
pub use dpkg::Dpkg;
pub use mentions::{Comments, mentioned_paths};
pub use rpm::{Rpm, RpmCommand, RunRpm};

/// Why a question to the package database had no answer.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file of the database cannot be read.
    #[error("reading '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The package is not installed in this root.
    #[error("looking up package '{package}': it is not installed")]
    NotInstalled {
        /// The package asked for.
        package: PackageName,
    },
    /// The database's command cannot be started.
    #[error("running '{command}'")]
    Start {
        /// The command line.
        command: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The database's command failed.
    #[error("running '{command}': {message}")]
    Failed {
        /// The command line.
        command: String,
        /// The end of what it wrote to stderr.
        message: String,
    },
}

/// The result of a question to the package database.
pub type Result<T> = std::result::Result<T, PackageError>;

/// The name of an installed package, unique in its root.
///
/// A dpkg package of a foreign architecture carries it (`libc6:i386`), as dpkg(1) prints it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageName(Arc<str>);

impl PackageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PackageName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What is known about one installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: PackageName,
    /// Its version, with epoch and revision.
    pub version: String,
    /// Its architecture in the words of the database (`amd64`, `x86_64`, `all`, `noarch`).
    pub architecture: String,
    /// The name of the source package it was built from.
    pub source: String,
    /// The installed packages that satisfy its direct dependencies, sorted. Of alternatives and of virtual packages
    /// every installed one is here, because any of them may be the one in use.
    pub dependencies: Vec<PackageName>,
    /// Whether it belongs to the base system that every installation has. The directories of the base system are
    /// everybody's.
    pub base: bool,
}

/// Facts about the packages installed in one root.
pub trait PackageDb: fmt::Debug + Send + Sync {
    /// The packages that ship `path`, sorted; none for a file that no package ships.
    ///
    /// The spellings before and after the /usr merge (`/lib/x`, `/usr/lib/x`) are one path.
    fn owners(&self, path: &Path) -> Result<Vec<PackageName>>;

    /// Every path the package ships, with directories, as the package spells them.
    fn files(&self, package: &PackageName) -> Result<Vec<PathBuf>>;

    /// The package's own record.
    fn info(&self, package: &PackageName) -> Result<Package>;

    /// The installed packages with a direct dependency that this package satisfies, sorted.
    fn dependants(&self, package: &PackageName) -> Result<Vec<PackageName>>;

    /// The text of the package's maintainer scripts, one after another; empty where it has none.
    fn scripts(&self, package: &PackageName) -> Result<String>;

    /// The installed packages that ship `directory` or something below it, sorted.
    ///
    /// Answered for directories of the first three levels (`/etc/x`, `/var/lib/x`, `/usr/share/x`); none for others.
    fn users_of_directory(&self, directory: &Path) -> Result<Vec<PackageName>>;
}

/// Opens the package database of a root; `None` where there is none that can be read.
///
/// dpkg's files are read directly. An rpm database is read through the `rpm` command, which must be there.
pub fn open(root: &Path) -> Result<Option<Box<dyn PackageDb>>> {
    if let Some(dpkg) = Dpkg::open(root)? {
        return Ok(Some(Box::new(dpkg)));
    }
    match RpmCommand::find(root) {
        Some(command) => Ok(Some(Box::new(Rpm::open(Box::new(command))?))),
        None => Ok(None),
    }
}

/// The given packages and everything they depend on, directly or not.
pub fn dependency_closure(
    db: &dyn PackageDb,
    packages: &[PackageName],
) -> Result<BTreeSet<PackageName>> {
    let mut closure = BTreeSet::new();
    let mut pending = packages.to_vec();
    while let Some(package) = pending.pop() {
        if !closure.contains(&package) {
            pending.extend(db.info(&package)?.dependencies);
            closure.insert(package);
        }
    }
    Ok(closure)
}

/// The one spelling under which a path is known: lexically normal, after the /usr merge (hier(7), file-hierarchy(7)),
/// and with `/run` for the old `/var/run`.
fn canonical(path: &Path) -> PathBuf {
    let normal = super::normalize(path);
    for (old, new) in ALIASES {
        if let Ok(rest) = normal.strip_prefix(old) {
            // Joining an empty rest would leave a trailing slash.
            let new = Path::new(new);
            return if rest.as_os_str().is_empty() {
                new.into()
            } else {
                new.join(rest)
            };
        }
    }
    normal
}

/// Directories that are symbolic links on a merged system, and where they point.
const ALIASES: &[(&str, &str)] = &[
    ("/bin", "/usr/bin"),
    ("/sbin", "/usr/sbin"),
    ("/lib", "/usr/lib"),
    ("/lib32", "/usr/lib32"),
    ("/lib64", "/usr/lib64"),
    ("/libx32", "/usr/libx32"),
    ("/var/run", "/run"),
    ("/var/lock", "/run/lock"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_has_one_spelling() {
        for (spelled, expected) in [
            (
                "/lib/systemd/system/a.service",
                "/usr/lib/systemd/system/a.service",
            ),
            (
                "/usr/lib/systemd/system/a.service",
                "/usr/lib/systemd/system/a.service",
            ),
            ("/library/x", "/library/x"),
            ("/lib", "/usr/lib"),
            ("/var/run/a", "/run/a"),
            ("/.", "/"),
            ("/etc//a/./b/../c/", "/etc/a/c"),
            ("/../etc", "/etc"),
        ] {
            assert_eq!(
                canonical(Path::new(spelled)),
                Path::new(expected),
                "{spelled}"
            );
        }
    }

    #[test]
    fn a_root_without_a_database_has_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(open(root.path()).unwrap().is_none());
    }
}
