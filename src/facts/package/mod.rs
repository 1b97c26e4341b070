//! Package database of a root, as far as services need it.
//!
//! [`PackageDb`] has implementations for dpkg, rpm and pacman. Facts come from the database and never from the
//! name of a package. Callers decide what a sandbox gets.
//!
//! All paths are absolute and as seen from the root, without its prefix.

mod companions;
mod dpkg;
mod file_index;
mod mentions;
mod pacman;
mod rpm;

use crate::sys::path::normalize;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use companions::{Companion, Reason, configuration_packages};
pub use dpkg::Dpkg;
pub use mentions::{Comments, mentioned_paths};
pub use pacman::Pacman;
pub use rpm::{Rpm, RpmCommand, RunRpm};

/// Reason why a query of the package database failed.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file of the database cannot be read.
    #[error("reading '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The package is not installed in this root.
    #[error("looking up package '{package}': it is not installed")]
    NotInstalled {
        /// Requested package.
        package: PackageName,
    },
    /// The database's command cannot be started.
    #[error("running '{command}'")]
    Start {
        /// The command line.
        command: String,
        /// Error of the system call.
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

/// Result of a query of the package database.
pub type Result<T> = std::result::Result<T, PackageError>;

/// Name of an installed package, unique in its root.
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

/// Record of an installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: PackageName,
    /// Version, with epoch and revision.
    pub version: String,
    /// Architecture as named by the database (`amd64`, `x86_64`, `all`, `noarch`).
    pub architecture: String,
    /// Name of the source package.
    pub source: String,
    /// Installed packages that satisfy its direct dependencies, sorted. For alternatives and virtual packages this is
    /// every installed one, because any of them may be in use.
    pub dependencies: Vec<PackageName>,
    /// True for a package of the base system, which every installation has. Directories of the base system
    /// belong to no service.
    pub base: bool,
}

/// Facts about the packages that are installed in one root.
pub trait PackageDb: fmt::Debug + Send + Sync {
    /// Returns the packages that ship `path`, sorted; empty if no package does.
    ///
    /// The spellings before and after the /usr merge (`/lib/x`, `/usr/lib/x`) are the same path.
    fn owners(&self, path: &Path) -> Result<Vec<PackageName>>;

    /// Returns every path that the package ships, directories included, in its own spelling.
    fn files(&self, package: &PackageName) -> Result<Vec<PathBuf>>;

    /// Returns the record of a package.
    fn info(&self, package: &PackageName) -> Result<Package>;

    /// Returns the installed packages with a direct dependency that this package satisfies, sorted.
    fn dependants(&self, package: &PackageName) -> Result<Vec<PackageName>>;

    /// Returns the installed packages that provide a name, sorted: their own, or one such as `httpd`.
    fn providers(&self, name: &str) -> Result<Vec<PackageName>>;

    /// Returns the concatenated maintainer scripts of the package; empty if it has none.
    fn scripts(&self, package: &PackageName) -> Result<String>;

    /// Returns the installed packages that ship `directory` or something below it, sorted.
    ///
    /// Only directories of the first three levels are indexed (`/etc/x`, `/var/lib/x`, `/usr/share/x`); empty for others.
    fn users_of_directory(&self, directory: &Path) -> Result<Vec<PackageName>>;
}

/// Opens the package database of a root; returns `None` if there is none that can be read and has packages: a host may have the
/// empty database of a package manager that is not its own.
///
/// The files of dpkg and pacman are read directly. An rpm database needs the `rpm` command.
pub fn open(root: &Path) -> Result<Option<Box<dyn PackageDb>>> {
    if let Some(dpkg) = Dpkg::open(root)? {
        return Ok(Some(Box::new(dpkg)));
    }
    if let Some(command) = RpmCommand::find(root)
        && let Some(rpm) = Rpm::open(Box::new(command), root)?
    {
        return Ok(Some(Box::new(rpm)));
    }
    let pacman = Pacman::open(root)?;
    Ok(pacman.map(|pacman| Box::new(pacman) as Box<dyn PackageDb>))
}

/// Returns the given packages and all their direct and indirect dependencies.
pub fn dependency_closure(
    db: &dyn PackageDb,
    packages: &[PackageName],
) -> Result<BTreeSet<PackageName>> {
    closure(packages.iter().cloned(), |package| {
        Ok(db.info(package)?.dependencies)
    })
}

/// Returns the given packages and everything that `dependencies` leads to.
fn closure<D: IntoIterator<Item = PackageName>>(
    packages: impl Iterator<Item = PackageName>,
    dependencies: impl Fn(&PackageName) -> Result<D>,
) -> Result<BTreeSet<PackageName>> {
    let mut closure = BTreeSet::new();
    let mut pending: Vec<PackageName> = packages.collect();
    while let Some(package) = pending.pop() {
        if !closure.contains(&package) {
            pending.extend(dependencies(&package)?);
            closure.insert(package);
        }
    }
    Ok(closure)
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(PackageError::Read {
            path: path.into(),
            source,
        }),
    }
}

/// Returns the canonical spelling of a path: lexically normal, after the /usr merge (hier(7), file-hierarchy(7)),
/// and with `/run` in place of the old `/var/run`.
fn canonical(path: &Path) -> PathBuf {
    let normal = normalize(path);
    for (old, new) in ALIASES {
        if let Ok(rest) = normal.strip_prefix(old) {
            // Joining an empty rest would add a trailing slash.
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

/// Directories that are symbolic links on a merged system, with their targets.
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
    fn spellings_of_a_path_have_one_canonical_form() {
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
        // dpkg on a host of another package manager.
        let dpkg = root.path().join("var/lib/dpkg");
        fs::create_dir_all(&dpkg).unwrap();
        fs::write(dpkg.join("status"), "").unwrap();
        assert!(open(root.path()).unwrap().is_none());
    }
}
