//! pacman's database, read from `desc`, `files` and `install` of each package in /var/lib/pacman/local.
//!
//! The formats are those of alpm-db(7), alpm-db-desc(5) and alpm-db-files(5). No command runs, so the database of any root can
//! be read. Versions in dependencies are ignored: pacman has checked them for everything that is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::file_index::{Aliases, FileIndex};
use super::{Package, PackageDb, PackageError, PackageName, Result, closure, read_if_there};

/// Packages of the base system; with all their dependencies they correspond to dpkg's `Essential` packages. Arch has a
/// package `base` that depends on them, but an administrator may have removed it.
const BASE: &[&str] = &[
    "base",
    "bash",
    "filesystem",
    "pacman",
    "pam",
    "shadow",
    "systemd",
    "util-linux",
];

/// Installed packages of an Arch-like root.
#[derive(Debug)]
pub struct Pacman {
    installed: BTreeMap<PackageName, Record>,
    /// Packages by the names that satisfy a dependency: their own and those they provide.
    answering: BTreeMap<String, BTreeSet<PackageName>>,
    aliases: Aliases,
    files: OnceLock<FileIndex>,
    base: OnceLock<BTreeSet<PackageName>>,
}

/// Package of the database.
#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    /// Directory of the package in the database.
    directory: PathBuf,
    version: String,
    architecture: String,
    source: String,
    depends: BTreeSet<String>,
    provides: BTreeSet<String>,
}

impl Pacman {
    /// Opens the database of a root; returns `None` if the root has none.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let local = root.join("var/lib/pacman/local");
        let Ok(entries) = fs::read_dir(&local) else {
            return Ok(None);
        };
        let mut installed = BTreeMap::new();
        let mut answering: BTreeMap<String, BTreeSet<PackageName>> = BTreeMap::new();
        for directory in entries.flatten().map(|entry| entry.path()) {
            // There is also a file with the version of the format.
            let Some((name, record)) = read_if_there(&directory.join("desc"))?
                .and_then(|desc| Record::parse(&String::from_utf8_lossy(&desc), &directory))
            else {
                continue;
            };
            for answer in record
                .provides
                .iter()
                .map(String::as_str)
                .chain([name.as_str()])
            {
                answering
                    .entry(answer.to_owned())
                    .or_default()
                    .insert(name.clone());
            }
            installed.insert(name, record);
        }
        Ok((!installed.is_empty()).then(|| Self {
            installed,
            answering,
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

    fn files(&self) -> Result<&FileIndex> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let mut by_package = BTreeMap::new();
        for (name, record) in &self.installed {
            let text = read_if_there(&record.directory.join("files"))?.unwrap_or_default();
            by_package.insert(name.clone(), parse_files(&String::from_utf8_lossy(&text)));
        }
        let index = FileIndex::new(by_package, self.aliases.clone());
        Ok(self.files.get_or_init(|| index))
    }

    fn dependencies(&self, own: &PackageName, record: &Record) -> BTreeSet<PackageName> {
        let depends = record.depends.iter();
        let mut dependencies: BTreeSet<PackageName> = depends
            .filter_map(|wanted| self.answering.get(wanted))
            .flatten()
            .cloned()
            .collect();
        dependencies.remove(own);
        dependencies
    }

    fn base(&self) -> Result<&BTreeSet<PackageName>> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let base = closure(
            BASE.iter()
                .filter_map(|name| self.answering.get(*name))
                .flatten()
                .cloned(),
            |name| {
                let (own, record) = self.record(name)?;
                Ok(self.dependencies(own, record))
            },
        )?;
        Ok(self.base.get_or_init(|| base))
    }
}

impl PackageDb for Pacman {
    fn owners(&self, path: &Path) -> Result<Vec<PackageName>> {
        Ok(self.files()?.owners(path))
    }

    fn files(&self, package: &PackageName) -> Result<Vec<PathBuf>> {
        let (name, _) = self.record(package)?;
        Ok(Pacman::files(self)?.of(name).to_vec())
    }

    fn info(&self, package: &PackageName) -> Result<Package> {
        let (name, record) = self.record(package)?;
        Ok(Package {
            name: name.clone(),
            version: record.version.clone(),
            architecture: record.architecture.clone(),
            source: record.source.clone(),
            dependencies: self.dependencies(name, record).into_iter().collect(),
            base: self.base()?.contains(name),
        })
    }

    fn dependants(&self, package: &PackageName) -> Result<Vec<PackageName>> {
        let (own, _) = self.record(package)?;
        let installed = self.installed.iter();
        Ok(installed
            .filter(|(name, record)| self.dependencies(name, record).contains(own))
            .map(|(name, _)| name.clone())
            .collect())
    }

    fn providers(&self, name: &str) -> Result<Vec<PackageName>> {
        let providers: BTreeSet<_> = self.answering.get(name).into_iter().flatten().collect();
        Ok(providers.into_iter().cloned().collect())
    }

    fn scripts(&self, package: &PackageName) -> Result<String> {
        let (_, record) = self.record(package)?;
        let script = read_if_there(&record.directory.join("install"))?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&script).into_owned())
    }

    fn users_of_directory(&self, directory: &Path) -> Result<Vec<PackageName>> {
        Ok(self.files()?.users(directory))
    }
}

impl Record {
    /// Parses `desc`; returns `None` if it names no package.
    fn parse(desc: &str, directory: &Path) -> Option<(PackageName, Self)> {
        let sections = parse_sections(desc);
        let all = |name: &str| sections.get(name).map_or(&[][..], Vec::as_slice);
        let first = |name: &str| all(name).first().copied();
        let bare = |name: &str| all(name).iter().map(|text| without_version(text)).collect();
        let name = first("NAME")?;
        let record = Self {
            directory: directory.to_owned(),
            version: first("VERSION").unwrap_or_default().into(),
            architecture: first("ARCH").unwrap_or_default().into(),
            source: first("BASE").unwrap_or(name).into(),
            depends: bare("DEPENDS"),
            provides: bare("PROVIDES"),
        };
        Some((name.into(), record))
    }
}

/// Parses the paths of `files`: those of the package, and those with a backup of their original.
fn parse_files(text: &str) -> Vec<PathBuf> {
    let sections = parse_sections(text);
    let all = |name: &str| sections.get(name).map_or(&[][..], Vec::as_slice).iter();
    // A directory ends with a slash, and a checksum follows a path after a tab.
    let shipped = all("FILES").map(|path| path.trim_end_matches('/'));
    let kept = all("BACKUP").map(|line| line.split('\t').next().unwrap_or_default());
    let paths: BTreeSet<PathBuf> = shipped
        .chain(kept)
        .filter(|path| !path.is_empty())
        .map(|path| Path::new("/").join(path))
        .collect();
    paths.into_iter().collect()
}

/// Parses sections: a line `%NAME%`, then one value on each line until an empty one.
fn parse_sections(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line
            .strip_prefix('%')
            .and_then(|rest| rest.strip_suffix('%'))
        {
            Some(name) => current = name,
            None => sections.entry(current).or_default().push(line),
        }
    }
    sections
}

/// Returns the name in a relation such as `glibc>=2.38` or `libssl.so=3-64`.
fn without_version(relation: &str) -> String {
    let name = relation.split(['<', '>', '=']).next();
    name.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
