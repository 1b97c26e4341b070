//! dpkg's database, read from `status`, `diversions` and `info/` in /var/lib/dpkg.
//!
//! The formats are those of deb-control(5), deb-substvars(5) and dpkg(1). No command runs, so the database of any
//! root can be read. Versions in dependencies are ignored: dpkg has checked them for
//! everything that is installed.

mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use self::status::{
    Dependency, Diversion, Record, native_architecture, parse_diversions, parse_status,
};
use super::{Package, PackageDb, PackageError, PackageName, Result, canonical, read_if_there};

/// Scripts and templates of a package that dpkg and debconf store beside its file list.
const SCRIPTS: &[&str] = &["config", "preinst", "postinst", "prerm", "postrm"];

/// Directories with a complete index, in the spelling of [`canonical`]. Other paths are indexed only to the
/// third level, because a desktop has 300,000 of them and the owner of an icon does not matter.
const INDEXED: &[&[u8]] = &[
    b"/etc/",
    b"/home/",
    b"/opt/",
    b"/run/",
    b"/srv/",
    b"/var/",
    b"/usr/lib/systemd/",
    b"/usr/lib/tmpfiles.d/",
    b"/usr/lib/sysusers.d/",
    b"/usr/share/dbus-1/",
];

/// Installed packages of a Debian-like root.
#[derive(Debug)]
pub struct Dpkg {
    info: PathBuf,
    native: String,
    installed: BTreeMap<PackageName, Record>,
    /// Packages by the names that satisfy a dependency: their own (without architecture) and those they provide.
    answering: BTreeMap<String, Vec<PackageName>>,
    diversions: Vec<Diversion>,
    index: OnceLock<Index>,
}

/// Owners of each indexed path, by canonical spelling. The keys are bytes because comparing paths splits them each time.
type Index = BTreeMap<Box<[u8]>, Vec<PackageName>>;

impl Dpkg {
    /// Opens the database of a root; returns `None` if the root has none, or one without packages.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let admin = root.join("var/lib/dpkg");
        let Some(status) = read_if_there(&admin.join("status"))? else {
            return Ok(None);
        };
        let diversions = read_if_there(&admin.join("diversions"))?.unwrap_or_default();
        let records = parse_status(&String::from_utf8_lossy(&status));
        if records.is_empty() {
            return Ok(None);
        }
        let native = native_architecture(&records);
        let mut installed = BTreeMap::new();
        let mut answering: BTreeMap<String, Vec<PackageName>> = BTreeMap::new();
        for record in records {
            let name = if record.architecture == native || record.architecture == "all" {
                PackageName::from(record.bare_name.as_str())
            } else {
                PackageName::from(format!("{}:{}", record.bare_name, record.architecture).as_str())
            };
            for answer in std::iter::once(&record.bare_name).chain(&record.provides) {
                answering
                    .entry(answer.clone())
                    .or_default()
                    .push(name.clone());
            }
            installed.insert(name, record);
        }
        Ok(Some(Self {
            info: admin.join("info"),
            native,
            installed,
            answering,
            diversions: parse_diversions(&diversions),
            index: OnceLock::new(),
        }))
    }

    fn record(&self, package: &PackageName) -> Result<(&PackageName, &Record)> {
        let found = self.installed.get_key_value(package).or_else(|| {
            // `name:amd64` equals `name` if amd64 is native.
            let (bare, architecture) = package.as_str().split_once(':')?;
            let (name, record) = self.installed.get_key_value(&PackageName::from(bare))?;
            (record.architecture == architecture || architecture == self.native)
                .then_some((name, record))
        });
        found.ok_or_else(|| PackageError::NotInstalled {
            package: package.clone(),
        })
    }

    /// Reads a file of the package in `info/`; packages with `Multi-Arch: same` have the architecture in its name.
    fn info_file(&self, record: &Record, kind: &str) -> Result<Option<Vec<u8>>> {
        let Record {
            bare_name,
            architecture,
            ..
        } = record;
        let with_architecture = self.info.join(format!("{bare_name}:{architecture}.{kind}"));
        match read_if_there(&with_architecture)? {
            Some(content) => Ok(Some(content)),
            None => read_if_there(&self.info.join(format!("{bare_name}.{kind}"))),
        }
    }

    fn list(&self, record: &Record) -> Result<Vec<u8>> {
        Ok(self.info_file(record, "list")?.unwrap_or_default())
    }

    fn index(&self) -> Result<&Index> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let mut index = Index::new();
        for (name, record) in &self.installed {
            for line in lines(&self.list(record)?) {
                let path = canonical_bytes(line);
                if is_indexed(&path) {
                    index
                        .entry(path.into_boxed_slice())
                        .or_default()
                        .push(name.clone());
                }
            }
        }
        Ok(self.index.get_or_init(|| index))
    }

    /// Returns the packages whose lists contain the path, regardless of diversions.
    fn listing(&self, path: &Path) -> Result<Vec<PackageName>> {
        let path = canonical(path);
        let wanted = path.as_os_str().as_bytes();
        if is_indexed(wanted) {
            return Ok(self.index()?.get(wanted).cloned().unwrap_or_default());
        }
        let mut listing = Vec::new();
        for (name, record) in &self.installed {
            if lines(&self.list(record)?).any(|line| canonical_bytes(line) == wanted) {
                listing.push(name.clone());
            }
        }
        Ok(listing)
    }

    /// Returns the installed packages that satisfy one dependency of a package of `architecture`.
    fn satisfying<'a>(
        &'a self,
        wanted: &'a Dependency,
        architecture: &str,
    ) -> Vec<&'a PackageName> {
        let answers = self
            .answering
            .get(&wanted.name)
            .map_or(&[][..], Vec::as_slice);
        // A package of architecture "all" counts as native (deb-control(5), Multi-Arch).
        let architecture = match wanted.architecture.as_deref() {
            Some(asked) => asked,
            None if architecture == "all" => &self.native,
            None => architecture,
        };
        let fitting: Vec<_> = answers
            .iter()
            .filter(|name| {
                self.installed
                    .get(*name)
                    .is_some_and(|r| r.architecture == architecture || r.architecture == "all")
            })
            .collect();
        // `Multi-Arch: foreign` lets another architecture satisfy it; dpkg has checked that.
        if fitting.is_empty() {
            answers.iter().collect()
        } else {
            fitting
        }
    }

    fn dependencies<'a>(&'a self, record: &'a Record) -> BTreeSet<&'a PackageName> {
        record
            .depends
            .iter()
            .flat_map(|wanted| self.satisfying(wanted, &record.architecture))
            .collect()
    }
}

impl PackageDb for Dpkg {
    fn owners(&self, path: &Path) -> Result<Vec<PackageName>> {
        let path = canonical(path);
        let is_by = |by: &Option<String>, owner: &PackageName| {
            by.as_deref().is_some_and(|by| {
                self.installed
                    .get(owner)
                    .is_some_and(|record| record.bare_name == by)
            })
        };
        let mut owners = self.listing(&path)?;
        for Diversion { from, to, by } in &self.diversions {
            if *from == path {
                owners.retain(|owner| is_by(by, owner));
            } else if *to == path {
                let mut moved = self.listing(from)?;
                moved.retain(|owner| !is_by(by, owner));
                owners.extend(moved);
            }
        }
        owners.sort();
        owners.dedup();
        Ok(owners)
    }

    fn files(&self, package: &PackageName) -> Result<Vec<PathBuf>> {
        let (_, record) = self.record(package)?;
        Ok(lines(&self.list(record)?)
            // The root is written "/." and every package ships it.
            .filter(|line| *line != b"/.")
            .map(|line| PathBuf::from(OsStr::from_bytes(line)))
            .collect())
    }

    fn info(&self, package: &PackageName) -> Result<Package> {
        let (name, record) = self.record(package)?;
        Ok(Package {
            name: name.clone(),
            version: record.version.clone(),
            architecture: record.architecture.clone(),
            source: record.source.clone(),
            dependencies: self.dependencies(record).into_iter().cloned().collect(),
            base: record.base,
        })
    }

    fn dependants(&self, package: &PackageName) -> Result<Vec<PackageName>> {
        let (own, _) = self.record(package)?;
        Ok(self
            .installed
            .iter()
            .filter(|(name, record)| *name != own && self.dependencies(record).contains(own))
            .map(|(name, _)| name.clone())
            .collect())
    }

    fn providers(&self, name: &str) -> Result<Vec<PackageName>> {
        let providers: BTreeSet<_> = self.answering.get(name).into_iter().flatten().collect();
        Ok(providers.into_iter().cloned().collect())
    }

    fn scripts(&self, package: &PackageName) -> Result<String> {
        let (_, record) = self.record(package)?;
        let mut text = String::new();
        for kind in SCRIPTS {
            if let Some(script) = self.info_file(record, kind)? {
                text.push_str(&String::from_utf8_lossy(&script));
                text.push('\n');
            }
        }
        Ok(text)
    }

    fn users_of_directory(&self, directory: &Path) -> Result<Vec<PackageName>> {
        // A dpkg list contains every parent directory, so each user of a directory lists it.
        let directory = canonical(directory);
        let bytes = directory.as_os_str().as_bytes();
        Ok(self.index()?.get(bytes).cloned().unwrap_or_default())
    }
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// Returns the canonical spelling of a path in a list. Lists contain normal paths, so only the first component can differ;
/// this keeps the index cheap.
fn canonical_bytes(path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/usr/") || path.starts_with(b"/etc/") {
        return path.to_vec();
    }
    canonical(Path::new(OsStr::from_bytes(path)))
        .into_os_string()
        .into_encoded_bytes()
}

fn is_indexed(path: &[u8]) -> bool {
    INDEXED.iter().any(|prefix| path.starts_with(prefix))
        || path.iter().filter(|byte| **byte == b'/').count() <= 3
}

#[cfg(test)]
mod tests;
