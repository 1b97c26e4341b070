//! Paths of the host that a service's units, packages, accounts and configuration name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ownership::Ownership;
use super::text::read_text;
use super::{FIRST_PACKAGE_UID, Service};
use crate::error::{Error, Result};
use crate::facts::package::{Comments, PackageName, mentioned_paths};
use crate::facts::tmpfiles;
use crate::facts::unit::facts::directory::DirectoryKind;
use crate::facts::unit::{UnitFacts, UnitName};
use crate::sys::path::below;
use crate::sys::root::Root;

/// Reason why a path belongs to the service. Its text is a phrase.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// A unit names it in this setting.
    Unit(UnitName, &'static str),
    /// A package ships it.
    Package(PackageName),
    /// A package's maintainer scripts work on it.
    Script(PackageName),
    /// The service's configuration names it.
    Mentioned(PathBuf),
    /// A comment in its configuration names it, such as a default.
    Commented(PathBuf),
    /// Name of a unit or an account of the service.
    Name(String),
    /// A rule of `tmpfiles.d` creates it.
    Tmpfiles(PathBuf),
    /// Home of an account of the service.
    Home(String),
    /// Owned by an account of the service.
    OwnedBy(String),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit, key) => write!(f, "{key} of {unit}"),
            Self::Package(package) => write!(f, "package {package}"),
            Self::Script(package) => write!(f, "maintainer scripts of {package}"),
            Self::Mentioned(file) => write!(f, "named in '{}'", file.display()),
            Self::Commented(file) => write!(f, "named in a comment of '{}'", file.display()),
            Self::Name(name) => write!(f, "called like {name}"),
            Self::Tmpfiles(file) => write!(f, "'{}'", file.display()),
            Self::Home(user) => write!(f, "home of {user}"),
            Self::OwnedBy(user) => write!(f, "belongs to {user}"),
        }
    }
}

/// Directories common to all services: ownership is decided one level below.
const SHARED: [&str; 22] = [
    "/",
    "/etc",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/cache",
    "/var/spool",
    "/var/tmp",
    "/var/mail",
    "/var/spool/mail",
    "/var/run",
    "/var/lock",
    "/var/opt",
    "/var/local",
    "/var/backups",
    "/var/lib/private",
    "/var/cache/private",
    "/var/log/private",
    "/srv",
    "/home",
    "/root",
    "/run",
];

impl Service {
    pub(super) fn find_paths(&mut self, root: &Path, programs: &[PathBuf]) -> Result<()> {
        let mut paths = Paths {
            root,
            found: BTreeMap::new(),
        };
        for facts in self.members() {
            paths.add_unit(facts);
            for program in programs {
                paths.add(program.clone(), Fact::Unit(facts.name.clone(), "Exec…="));
            }
        }
        match &self.ownership {
            Ownership::Database(database) => {
                for package in self.packages.keys() {
                    for path in database.files(package)? {
                        paths.add(path, Fact::Package(package.clone()));
                    }
                }
            }
            Ownership::Conventions(conventions) => {
                for (path, name) in &conventions.places {
                    paths.add(path.clone(), Fact::Name(name.clone()));
                }
            }
        }
        let files = tmpfiles::load(root).map_err(Error::step("reading tmpfiles.d"))?;
        for file in files.into_iter().filter(|file| self.ships(&file.path)) {
            for rule in file.lines {
                paths.add(rule.path, Fact::Tmpfiles(file.path.clone()));
            }
        }
        for (package, script) in self.scripts()? {
            for path in mentioned_paths(&script, Comments::Skip) {
                if !self.is_of_others(&path) {
                    paths.add(path, Fact::Script(package.clone()));
                }
            }
        }
        self.find_mentions(root, &Root::of_host(root)?, &mut paths);
        for user in self
            .users
            .iter()
            .filter_map(|name| self.accounts.user(name))
        {
            let home = PathBuf::from(&user.home);
            if self.is_unclaimed(&home) {
                paths.add(home, Fact::Home(user.name.clone()));
            }
        }
        self.find_owned(root, &mut paths);
        self.paths = paths.found;
        Ok(())
    }

    /// Adds the paths in the service's configuration files.
    fn find_mentions(&mut self, root: &Path, host: &Root, paths: &mut Paths<'_>) {
        let mut named = BTreeMap::new();
        let mut commented = BTreeMap::new();
        let readers = self.readers();
        for file in self.configuration(root, &paths.found) {
            // A link names its target.
            if below(root, &file).is_symlink() {
                named.insert(file.clone(), file.clone());
            }
            let Some((text, is_of_root)) = read_text(host, &file) else {
                continue;
            };
            // An account other than root may write paths there that it may not read itself.
            let is_believed = |path: &Path| is_of_root || readers.may_read(host, path);
            let active = mentioned_paths(&text, Comments::Skip);
            for path in mentioned_paths(&text, Comments::Read) {
                if !active.contains(&path) && is_believed(&path) {
                    commented.entry(path).or_insert_with(|| file.clone());
                }
            }
            for path in active {
                if !is_believed(&path) {
                    warn_of_disbelief(root, &path, &file);
                    continue;
                }
                if self.is_content(root, &path) || self.is_unclaimed(&path) {
                    paths.add(path.clone(), Fact::Mentioned(file.clone()));
                }
                named.entry(path).or_insert_with(|| file.clone());
            }
        }
        for (path, file) in commented {
            if self.is_unclaimed(&path) {
                paths.add(path, Fact::Commented(file));
            }
        }
        for facts in self.members() {
            for path in facts.named_files() {
                named
                    .entry(path.to_owned())
                    .or_insert_with(|| PathBuf::from(facts.name.to_string()));
            }
        }
        self.named = named;
    }

    /// Returns true if a path belongs to no other package and is not in a home directory: files there belong to
    /// people, whichever service uses them.
    fn is_unclaimed(&self, path: &Path) -> bool {
        let is_home = path.starts_with("/home") || path.starts_with("/root");
        !is_home && !self.is_of_others(path)
    }

    /// Returns true if a path in the configuration is content to serve, whoever owns it: anything in `/var/www` or
    /// `/srv`, and a file in `/var` that no package ships.
    fn is_content(&self, root: &Path, path: &Path) -> bool {
        let is_site = ["/var/www", "/srv"].iter().any(|top| path.starts_with(top));
        let is_file = path.starts_with("/var") && below(root, path).is_file();
        is_site || (is_file && self.owners(path).is_empty())
    }

    /// Returns the service's configuration files, also those of a distribution that has its own in `/usr/etc`.
    fn configuration(&self, root: &Path, paths: &BTreeMap<PathBuf, Fact>) -> BTreeSet<PathBuf> {
        let own = paths
            .keys()
            .filter(|path| path.starts_with("/etc") || path.starts_with("/usr/etc"))
            .filter(|path| self.has_to_itself(path) || !below(root, path).is_dir());
        own.flat_map(|top| {
            let files = walkdir::WalkDir::new(below(root, top))
                .max_depth(8)
                .into_iter()
                .filter_map(|entry| entry.ok());
            files.filter(|file| file.path().is_file())
        })
        .map(|file| Path::new("/").join(file.path().strip_prefix(root).unwrap_or(file.path())))
        .collect()
    }

    /// Adds paths on the second level of /var that an account of the service owns.
    fn find_owned(&self, root: &Path, paths: &mut Paths<'_>) {
        let owners: BTreeMap<u32, &str> = self
            .users
            .iter()
            .filter_map(|name| self.accounts.user(name))
            .filter(|user| user.uid >= FIRST_PACKAGE_UID)
            .map(|user| (user.uid, user.name.as_str()))
            .collect();
        for top in ["/var/lib", "/var/spool", "/var/cache", "/var/log"] {
            let Ok(entries) = fs::read_dir(below(root, Path::new(top))) else {
                continue;
            };
            for entry in entries.filter_map(|entry| entry.ok()) {
                let path = Path::new(top).join(entry.file_name());
                let owner = entry
                    .metadata()
                    .ok()
                    .and_then(|metadata| owners.get(&metadata.uid()).copied());
                if let Some(user) = owner.filter(|_| !self.is_of_others(&path)) {
                    paths.add(path, Fact::OwnedBy(user.to_owned()));
                }
            }
        }
    }
}

fn warn_of_disbelief(root: &Path, path: &Path, file: &Path) {
    let is_there = below(root, path).symlink_metadata().is_ok();
    if is_there
        && [Path::new("/etc"), Path::new("/var"), Path::new("/srv")]
            .iter()
            .any(|top| path.starts_with(top))
    {
        log::warn!(
            "'{}' is named in '{}', which others than root can write to, and the service's accounts may not read it: it is not taken for \
             the service's; if it is, give that file and its directory to root",
            path.display(),
            file.display()
        );
    }
}

/// Paths collected so far.
struct Paths<'a> {
    root: &'a Path,
    found: BTreeMap<PathBuf, Fact>,
}

impl Paths<'_> {
    /// Adds an existing path that is not common to all services, and the targets of links on the way to it.
    fn add(&mut self, path: PathBuf, fact: Fact) {
        let Some(path) = self.resolve_parents(&path) else {
            return;
        };
        if !is_shared(&path) && below(self.root, &path).symlink_metadata().is_ok() {
            self.found.entry(path).or_insert(fact);
        }
    }

    /// Resolves the links on the way to a path, but not a link at its end.
    fn resolve_parents(&self, path: &Path) -> Option<PathBuf> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Some(path.to_owned());
        };
        match Root::of_host(self.root).and_then(|root| root.canonical(parent)) {
            Ok(inside) => Some(inside.join(name)),
            Err(error) => {
                if !error.is_not_found() {
                    log::warn!("'{}' is left out: {error}", path.display());
                }
                None
            }
        }
    }

    fn add_unit(&mut self, facts: &UnitFacts) {
        let fact = |key| Fact::Unit(facts.name.clone(), key);
        for directory in &facts.directories {
            if directory.kind != DirectoryKind::Runtime {
                let key = directory.kind.key();
                // systemd creates these itself if they are missing.
                self.add(directory.path.clone(), fact(key));
                if let Some(private) = &directory.private {
                    self.add(private.clone(), fact(key));
                }
            }
        }
        let marked = [
            ("EnvironmentFile=", &facts.environment_files),
            ("ReadWritePaths=", &facts.read_write_paths),
            ("ReadOnlyPaths=", &facts.read_only_paths),
        ];
        for (key, paths) in marked {
            for path in paths {
                self.add(path.path.clone(), fact(key));
            }
        }
        for bind in &facts.binds {
            self.add(bind.source.path.clone(), fact("BindPaths="));
        }
        let single = [
            (
                "WorkingDirectory=",
                facts.working_directory.as_ref().map(|path| &path.path),
            ),
            ("RootDirectory=", facts.root_directory.as_ref()),
            ("SourcePath=", facts.source_path.as_ref()),
        ];
        for (key, path) in single {
            if let Some(path) = path {
                self.add(path.clone(), fact(key));
            }
        }
        for path in &facts.mounts_for {
            self.add(path.clone(), fact("RequiresMountsFor="));
        }
        for credential in &facts.credentials {
            if let Some(path) = &credential.path {
                self.add(path.clone(), fact("LoadCredential="));
            }
        }
        for path in &facts.mentioned_paths {
            self.add(path.clone(), fact("Exec…="));
        }
    }
}

/// Returns true if `path` is common to all services.
pub fn is_shared(path: &Path) -> bool {
    SHARED.iter().any(|shared| Path::new(shared) == path)
}
