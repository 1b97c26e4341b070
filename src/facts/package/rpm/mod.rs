//! rpm's database, read with the `rpm` command.
//!
//! Two bulk queries (rpm(8), rpm-queryformat(7)) and pure functions that parse their output. The command reads the
//! database formats (sqlite, ndb, bdb). Packages of one name in several versions or architectures count
//! as one; rich dependencies ("(a if b)") are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sys::process::command::capture;

use super::file_index::{Aliases, FileIndex};
use super::{Package, PackageDb, PackageError, PackageName, Result, closure};

/// Query format: one line per package, then one for each capability that it requires or provides.
const PACKAGES: &str = "package\\t%{NAME}\\t%{EVR}\\t%{ARCH}\\t%{SOURCERPM}\\n[requires\\t%{REQUIRENAME}\\n][provides\\t%{PROVIDENAME}\\n]";

/// Query format: one line per package, then one for each of its files.
const FILES: &str = "package\\t%{NAME}\\n[file\\t%{FILENAMES}\\n]";

/// Places of rpm's database: the present one, and the one before Fedora 36.
const DATABASES: &[&str] = &["/usr/lib/sysimage/rpm", "/var/lib/rpm"];

/// File name of each of rpm's database formats.
const DATABASE_FILES: &[&str] = &["rpmdb.sqlite", "Packages.db", "Packages"];

/// Packages of the base system, or capabilities that they provide, on Fedora, RHEL, SUSE and the like. With all their
/// requirements they correspond to dpkg's `Essential` packages and those of priority `important` and higher.
const BASE: &[&str] = &[
    "aaa_base",
    "basesystem",
    "bash",
    "coreutils",
    "distribution-release",
    "dnf",
    "dnf5",
    "filesystem",
    "glibc",
    "pam",
    "rpm",
    "setup",
    "shadow",
    "shadow-utils",
    "system-release",
    "systemd",
    "util-linux",
    "zypper",
];

/// rpm's text for a missing value.
const NONE: &str = "(none)";

/// Runner of the `rpm` command, which tests replace.
pub trait RunRpm: fmt::Debug + Send + Sync {
    /// Returns the standard output of rpm with these arguments; a status other than 0 is an error.
    fn run(&self, arguments: &[&str]) -> Result<String>;
}

/// The `rpm` command for the database of one root, with untranslated messages and empty standard input.
#[derive(Debug)]
pub struct RpmCommand {
    root: PathBuf,
    database: &'static str,
}

impl RpmCommand {
    /// Finds the command for a root; returns `None` if the root has no rpm database or the command does not run.
    pub fn find(root: &Path) -> Option<Self> {
        let database = DATABASES.iter().find(|database| {
            let directory = root.join(database.trim_start_matches('/'));
            DATABASE_FILES
                .iter()
                .any(|file| directory.join(file).exists())
        })?;
        let runs = capture("rpm", ["--version"]).is_ok_and(|version| version.success);
        runs.then(|| Self {
            root: root.into(),
            database,
        })
    }
}

impl RunRpm for RpmCommand {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut words = Vec::new();
        // With --root rpm calls chroot(2), which needs privileges; "/" works without.
        let root = self.root.to_string_lossy();
        if self.root != Path::new("/") {
            words.extend(["--root", &root]);
        }
        // The default of the command may differ from the root's.
        words.extend(["--dbpath", self.database]);
        words.extend(arguments);
        let command = format!("rpm {}", arguments.join(" "));
        match capture("rpm", words) {
            Ok(captured) if captured.success => Ok(captured.stdout),
            Ok(captured) => Err(PackageError::Failed {
                command,
                message: captured
                    .stderr
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .to_owned(),
            }),
            Err(source) => Err(PackageError::Start { command, source }),
        }
    }
}

/// Installed packages of an rpm-based root.
#[derive(Debug)]
pub struct Rpm {
    rpm: Box<dyn RunRpm>,
    installed: BTreeMap<PackageName, Record>,
    provided: BTreeMap<String, BTreeSet<PackageName>>,
    aliases: Aliases,
    /// Read on demand, because this is by far the longest output.
    files: OnceLock<FileIndex>,
    base: OnceLock<BTreeSet<PackageName>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    version: String,
    architecture: String,
    source: String,
    requires: BTreeSet<String>,
    provides: BTreeSet<String>,
}

impl Rpm {
    /// Reads the packages of the database of a root; returns `None` if there are none.
    pub fn open(rpm: Box<dyn RunRpm>, root: &Path) -> Result<Option<Self>> {
        let installed = parse_packages(&rpm.run(&["-qa", "--queryformat", PACKAGES])?);
        if installed.is_empty() {
            return Ok(None);
        }
        let mut provided: BTreeMap<String, BTreeSet<PackageName>> = BTreeMap::new();
        for (name, record) in &installed {
            for capability in &record.provides {
                provided
                    .entry(capability.clone())
                    .or_default()
                    .insert(name.clone());
            }
        }
        Ok(Some(Self {
            rpm,
            installed,
            provided,
            aliases: Aliases::of(root),
            files: OnceLock::new(),
            base: OnceLock::new(),
        }))
    }

    fn record(&self, package: &PackageName) -> Result<(&PackageName, &Record)> {
        self.installed
            .get_key_value(package)
            .ok_or_else(|| PackageError::NotInstalled {
                package: package.clone(),
            })
    }

    fn all_files(&self) -> Result<&FileIndex> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let listed = parse_files(&self.rpm.run(&["-qa", "--queryformat", FILES])?);
        let index = FileIndex::new(listed, self.aliases.clone());
        Ok(self.files.get_or_init(|| index))
    }

    fn files_of(&self, package: &PackageName) -> Result<&[PathBuf]> {
        let (name, _) = self.record(package)?;
        Ok(self.all_files()?.of(name))
    }

    /// Returns the installed packages that satisfy a requirement: a capability, or the path of a file.
    fn satisfying(&self, requirement: &str) -> Result<Vec<PackageName>> {
        let mut satisfying = match requirement.starts_with('/') {
            true => self.all_files()?.owners(Path::new(requirement)),
            false => vec![],
        };
        satisfying.extend(
            self.provided
                .get(requirement)
                .into_iter()
                .flatten()
                .cloned(),
        );
        Ok(satisfying)
    }

    fn dependencies(&self, own: &PackageName, record: &Record) -> Result<BTreeSet<PackageName>> {
        let mut dependencies = BTreeSet::new();
        for requirement in &record.requires {
            dependencies.extend(self.satisfying(requirement)?);
        }
        dependencies.remove(own);
        Ok(dependencies)
    }

    /// Returns the base system: the packages that ship /etc and /etc/passwd, those in [`BASE`], and all their requirements.
    fn base(&self) -> Result<&BTreeSet<PackageName>> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let files = self.all_files()?;
        let shipping = ["/etc", "/etc/passwd"].map(|path| files.owners(Path::new(path)));
        let providing = BASE.iter().filter_map(|name| self.provided.get(*name));
        let named = BASE.iter().map(|name| PackageName::from(*name));
        let base = closure(
            shipping
                .into_iter()
                .flatten()
                .chain(providing.flatten().cloned())
                .chain(named.filter(|name| self.installed.contains_key(name))),
            |name| {
                let (own, record) = self.record(name)?;
                self.dependencies(own, record)
            },
        )?;
        Ok(self.base.get_or_init(|| base))
    }
}

impl PackageDb for Rpm {
    fn owners(&self, path: &Path) -> Result<Vec<PackageName>> {
        Ok(self.all_files()?.owners(path))
    }

    fn files(&self, package: &PackageName) -> Result<Vec<PathBuf>> {
        Ok(self.files_of(package)?.to_vec())
    }

    fn info(&self, package: &PackageName) -> Result<Package> {
        let (name, record) = self.record(package)?;
        Ok(Package {
            name: name.clone(),
            version: record.version.clone(),
            architecture: record.architecture.clone(),
            source: record.source.clone(),
            dependencies: self.dependencies(name, record)?.into_iter().collect(),
            base: self.base()?.contains(name),
        })
    }

    fn dependants(&self, package: &PackageName) -> Result<Vec<PackageName>> {
        let (own, _) = self.record(package)?;
        let mut dependants = Vec::new();
        for (name, record) in &self.installed {
            if self.dependencies(name, record)?.contains(own) {
                dependants.push(name.clone());
            }
        }
        Ok(dependants)
    }

    fn providers(&self, name: &str) -> Result<Vec<PackageName>> {
        let providers: BTreeSet<_> = self.provided.get(name).into_iter().flatten().collect();
        Ok(providers.into_iter().cloned().collect())
    }

    fn scripts(&self, package: &PackageName) -> Result<String> {
        let (name, _) = self.record(package)?;
        self.rpm.run(&["-q", "--scripts", name.as_str()])
    }

    fn users_of_directory(&self, directory: &Path) -> Result<Vec<PackageName>> {
        Ok(self.all_files()?.users(directory))
    }
}

/// Parses the output of the query [`PACKAGES`].
fn parse_packages(answer: &str) -> BTreeMap<PackageName, Record> {
    let mut packages: BTreeMap<PackageName, Record> = BTreeMap::new();
    let mut current: Option<PackageName> = None;
    for line in answer.lines() {
        match line.split('\t').collect::<Vec<_>>()[..] {
            // rpm stores signature keys as packages without architecture.
            ["package", _, _, NONE, _] => current = None,
            ["package", name, version, architecture, source_rpm] => {
                let name = PackageName::from(name);
                let record = packages.entry(name.clone()).or_default();
                record.version = version.into();
                record.architecture = architecture.into();
                record.source = source_name(source_rpm).unwrap_or(name.as_str()).into();
                current = Some(name);
            }
            [kind @ ("requires" | "provides"), capability] if capability != NONE => {
                if let Some(record) = current.as_ref().and_then(|name| packages.get_mut(name)) {
                    let capabilities = if kind == "requires" {
                        &mut record.requires
                    } else {
                        &mut record.provides
                    };
                    capabilities.insert(capability.into());
                }
            }
            _ => {}
        }
    }
    packages
}

/// Parses the output of the query [`FILES`].
fn parse_files(answer: &str) -> BTreeMap<PackageName, Vec<PathBuf>> {
    let mut packages: BTreeMap<PackageName, Vec<PathBuf>> = BTreeMap::new();
    let mut current: Option<PackageName> = None;
    for line in answer.lines() {
        match line.splitn(2, '\t').collect::<Vec<_>>()[..] {
            ["package", name] => current = Some(name.into()),
            ["file", path] if path.starts_with('/') => {
                if let Some(name) = &current {
                    packages.entry(name.clone()).or_default().push(path.into());
                }
            }
            _ => {}
        }
    }
    packages
}

/// Returns the name in "name-version-release.src.rpm" or ".nosrc.rpm".
fn source_name(source_rpm: &str) -> Option<&str> {
    let build = source_rpm.strip_suffix(".rpm")?;
    build.rsplitn(3, '-').nth(2)
}

#[cfg(test)]
mod tests;
