//! What belongs to a service: its units, its packages, its accounts, and the paths that any of these name.
//!
//! Only facts of the host are read: unit files, the package database, `tmpfiles.d` and `sysusers.d`, the service's own
//! configuration. What is made of a path is decided by [`tree`](super::tree).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::service::accounts::{Accounts, Needed, Texts};
use crate::service::package::{
    self, Comments, PackageDb, PackageName, configuration_packages, dependency_closure,
    mentioned_paths,
};
use crate::service::sysusers::{Entry, Sysusers};
use crate::service::tmpfiles::Tmpfiles;
use crate::service::unit::directory::DirectoryKind;
use crate::service::unit::special::Role;
use crate::service::unit::{self, Closure, LoadError, Specifiers, UnitDirs, UnitFacts, UnitName};

/// Why a path belongs to the service. Prints as a phrase.
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
    /// A rule of `tmpfiles.d` makes it.
    Tmpfiles(PathBuf),
    /// It is the home of an account of the service.
    Home(String),
    /// It belongs to an account of the service.
    OwnedBy(String),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit, key) => write!(f, "{key} of {unit}"),
            Self::Package(package) => write!(f, "package {package}"),
            Self::Script(package) => write!(f, "maintainer scripts of {package}"),
            Self::Mentioned(file) => write!(f, "named in '{}'", file.display()),
            Self::Tmpfiles(file) => write!(f, "'{}'", file.display()),
            Self::Home(user) => write!(f, "home of {user}"),
            Self::OwnedBy(user) => write!(f, "belongs to {user}"),
        }
    }
}

/// All that is known of a service.
#[derive(Debug)]
pub struct Service {
    /// The units asked for, with aliases followed.
    pub units: Vec<UnitName>,
    /// Those and the units they pull in.
    pub closure: Closure,
    /// Its packages, and why each is one.
    pub packages: BTreeMap<PackageName, String>,
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

/// Directories that nobody owns: what lies in them is told apart one level below.
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

/// Largest configuration file that is read for the paths it names, in bytes.
const LARGEST_TEXT: u64 = 1 << 20;

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

        let database = package::open(root)?;
        let mut service = Self {
            units,
            closure,
            packages: BTreeMap::new(),
            dependencies: BTreeSet::new(),
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            accounts: read_accounts(root),
            paths: BTreeMap::new(),
            named: BTreeMap::new(),
            database,
        };
        service.find_packages(extra)?;
        service.find_users(root)?;
        service.find_paths(root)?;
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

    /// The accounts a sandbox of this service keeps, besides those that own what is copied.
    #[must_use]
    pub fn needed_accounts(&self) -> Needed {
        Needed {
            users: self.users.clone(),
            groups: self.groups.clone(),
            ..Needed::default()
        }
    }

    fn find_packages(&mut self, extra: &[String]) -> Result<()> {
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
        for name in extra {
            let name = PackageName::from(name.as_str());
            database.info(&name)?;
            self.packages
                .entry(name)
                .or_insert_with(|| "asked for".to_owned());
        }
        let given: Vec<PackageName> = self.packages.keys().cloned().collect();
        for companion in configuration_packages(database.as_ref(), &given)? {
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
        let sysusers = Sysusers::load(root).map_err(Error::step("reading sysusers.d"))?;
        for entry in sysusers
            .files()
            .iter()
            .filter(|file| shipped(&file.path))
            .flat_map(|file| &file.entries)
        {
            match entry {
                Entry::User { name, .. } => {
                    users.insert(name.clone());
                }
                Entry::Group { name, .. } => {
                    groups.insert(name.clone());
                }
                Entry::Member { user, group } => {
                    users.insert(user.clone());
                    groups.insert(group.clone());
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

    fn find_paths(&mut self, root: &Path) -> Result<()> {
        let mut paths = Paths {
            root,
            found: BTreeMap::new(),
        };
        for facts in self.members() {
            paths.add_unit(facts);
        }
        if let Some(database) = &self.database {
            for package in self.packages.keys() {
                for path in database.files(package)? {
                    paths.add(path, Fact::Package(package.clone()));
                }
            }
        }
        let tmpfiles = Tmpfiles::load(root).map_err(Error::step("reading tmpfiles.d"))?;
        for file in tmpfiles
            .files()
            .iter()
            .filter(|file| self.ships(&file.path))
        {
            for rule in &file.rules {
                paths.add(rule.path.clone(), Fact::Tmpfiles(file.path.clone()));
            }
        }
        for (package, script) in self.scripts()? {
            for path in mentioned_paths(&script, Comments::Skip) {
                if !self.is_of_others(&path) {
                    paths.add(path, Fact::Script(package.clone()));
                }
            }
        }
        self.find_mentions(root, &mut paths);
        for user in self
            .users
            .iter()
            .filter_map(|name| self.accounts.user(name))
        {
            let home = PathBuf::from(&user.home);
            if !self.is_of_others(&home) {
                paths.add(home, Fact::Home(user.name.clone()));
            }
        }
        self.find_owned(root, &mut paths);
        self.paths = paths.found;
        Ok(())
    }

    /// What the texts of the service's configuration name.
    fn find_mentions(&mut self, root: &Path, paths: &mut Paths<'_>) {
        let mut named = BTreeMap::new();
        for (file, text) in self.configuration(root, &paths.found) {
            for path in mentioned_paths(&text, Comments::Read) {
                // People's homes are theirs, whoever serves them.
                let is_home = path.starts_with("/home") || path.starts_with("/root");
                if !is_home && !self.is_of_others(&path) {
                    paths.add(path, Fact::Mentioned(file.clone()));
                }
            }
            for path in mentioned_paths(&text, Comments::Skip) {
                named.entry(path).or_insert_with(|| file.clone());
            }
        }
        for facts in self.members() {
            for path in &facts.mentioned_paths {
                named
                    .entry(path.clone())
                    .or_insert_with(|| PathBuf::from(facts.name.to_string()));
            }
        }
        self.named = named;
    }

    /// The service's configuration files that can be read as text.
    fn configuration(
        &self,
        root: &Path,
        paths: &BTreeMap<PathBuf, Fact>,
    ) -> Vec<(PathBuf, String)> {
        let own: Vec<&Path> = paths
            .keys()
            .map(PathBuf::as_path)
            .filter(|path| path.starts_with("/etc"))
            .filter(|path| self.has_to_itself(path) || !below(root, path).is_dir())
            .collect();
        let mut texts = BTreeMap::new();
        for top in own {
            let files = walkdir::WalkDir::new(below(root, top))
                .max_depth(8)
                .into_iter()
                .filter_map(|entry| entry.ok());
            for file in files.filter(|file| file.path().is_file()) {
                let inside =
                    Path::new("/").join(file.path().strip_prefix(root).unwrap_or(file.path()));
                let is_small = file
                    .metadata()
                    .is_ok_and(|metadata| metadata.len() <= LARGEST_TEXT);
                if texts.contains_key(&inside) || !is_small {
                    continue;
                }
                if let Ok(text) = fs::read_to_string(file.path()) {
                    texts.insert(inside, text);
                }
            }
        }
        texts.into_iter().collect()
    }

    /// What an account of the service owns on the second level of /var, whoever made it.
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
                use std::os::unix::fs::MetadataExt;
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

/// Paths in the making.
struct Paths<'a> {
    root: &'a Path,
    found: BTreeMap<PathBuf, Fact>,
}

impl Paths<'_> {
    /// Adds a path that exists and is somebody's.
    fn add(&mut self, path: PathBuf, fact: Fact) {
        if !is_shared(&path) && below(self.root, &path).symlink_metadata().is_ok() {
            self.found.entry(path).or_insert(fact);
        }
    }

    fn add_unit(&mut self, facts: &UnitFacts) {
        let fact = |key| Fact::Unit(facts.name.clone(), key);
        for directory in &facts.directories {
            if directory.kind != DirectoryKind::Runtime {
                let key = directory.kind.key();
                // These systemd makes itself where they are missing.
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

/// Whether `path` is nobody's own.
pub fn is_shared(path: &Path) -> bool {
    SHARED.iter().any(|shared| Path::new(shared) == path)
}

/// `path` below `root`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
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
        | LoadError::NoInstance { .. }
        | LoadError::Read { .. }
        | LoadError::Scan(_) => "",
    };
    Error::refused(format!("{}{needed}{advice}", first.error))
}

fn read_accounts(root: &Path) -> Accounts {
    let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap_or_default();
    Accounts::parse(&Texts {
        passwd: read("passwd"),
        group: read("group"),
        shadow: read("shadow"),
        gshadow: read("gshadow"),
    })
}
