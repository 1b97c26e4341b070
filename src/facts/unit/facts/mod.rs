//! Needs that a unit declares: the settings of its files, typed, with specifiers expanded.
//!
//! This is what the files say; a path need not exist.

pub mod capability;
pub mod condition;
pub mod directory;
pub mod exec;
pub mod listen;
pub mod path_hints;
mod read;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::capability::CapabilitySet;
use self::condition::Condition;
use self::directory::{DirectoryKind, ManagedDirectory};
use self::exec::{ExecCommand, ExecPhase};
use self::listen::{Listen, ListenKind};
use self::path_hints::paths_in;
use self::read::Reader;
use super::load::{Unit, UnitSource};
use super::name::{UnitKind, UnitName};
use super::syntax::specifier::{Owner, Specifiers};
use super::syntax::{parse_bool, words};
use crate::sys::path::normalize;

/// A path that may be marked as optional with `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedPath {
    /// The absolute path.
    pub path: PathBuf,
    /// `-`: no error if it is missing.
    pub optional: bool,
}

/// `BindPaths=` or `BindReadOnlyPaths=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Source path.
    pub source: MarkedPath,
    /// Path as the service sees it.
    pub target: PathBuf,
    /// True if the service cannot write to it.
    pub read_only: bool,
}

/// `LoadCredential=` or `LoadCredentialEncrypted=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name of the credential.
    pub id: String,
    /// File or socket that it comes from, or `None` for a credential passed to the manager.
    pub path: Option<PathBuf>,
}

/// `DeviceAllow=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// A node in /dev, or a class such as `char-pts`.
    pub device: String,
    /// A subset of `rwm`.
    pub access: String,
}

/// The `[Install]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Install {
    /// `Also=`: units that are enabled with this one.
    pub also: Vec<UnitName>,
    /// `Alias=`.
    pub alias: Vec<UnitName>,
    /// `DefaultInstance=`.
    pub default_instance: Option<String>,
    /// `WantedBy=`.
    pub wanted_by: Vec<UnitName>,
    /// `RequiredBy=`.
    pub required_by: Vec<UnitName>,
}

/// Dependencies on other units, from settings and from `.wants` and `.requires` directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// `Requires=`, `Requisite=`, `BindsTo=` and `.requires`.
    pub requires: Vec<UnitName>,
    /// `Wants=`, `Upholds=` and `.wants`.
    pub wants: Vec<UnitName>,
    /// `Conflicts=`.
    pub conflicts: Vec<UnitName>,
    /// `Sockets=` of a service.
    pub sockets: Vec<UnitName>,
    /// Unit that a socket, timer or path starts: `Service=`, `Unit=`, or the one of the same name.
    pub triggers: Option<UnitName>,
    /// True if `triggers` is set explicitly rather than derived from the name.
    pub triggers_named: bool,
}

/// All needs that a unit declares.
#[derive(Debug, Clone)]
pub struct UnitFacts {
    /// The unit.
    pub name: UnitName,
    /// `Type=`, or `None` for systemd's default.
    pub service_type: Option<String>,
    /// `BusName=`.
    pub bus_name: Option<String>,
    /// `User=`, or `None` for root.
    pub user: Option<String>,
    /// `Group=`, or `None` for the user's primary group.
    pub group: Option<String>,
    /// `SupplementaryGroups=`.
    pub supplementary_groups: Vec<String>,
    /// `DynamicUser=`.
    pub dynamic_user: bool,
    /// All `Exec…=`.
    pub commands: Vec<ExecCommand>,
    /// Directories that systemd creates.
    pub directories: Vec<ManagedDirectory>,
    /// `Environment=`: names and values.
    pub environment: Vec<(String, String)>,
    /// `EnvironmentFile=`; may be a pattern.
    pub environment_files: Vec<MarkedPath>,
    /// `ReadWritePaths=`.
    pub read_write_paths: Vec<MarkedPath>,
    /// `ReadOnlyPaths=`.
    pub read_only_paths: Vec<MarkedPath>,
    /// `BindPaths=` and `BindReadOnlyPaths=`.
    pub binds: Vec<Bind>,
    /// `WorkingDirectory=`, if it is a path and not `~`.
    pub working_directory: Option<MarkedPath>,
    /// `RootDirectory=`.
    pub root_directory: Option<PathBuf>,
    /// `PIDFile=`.
    pub pid_file: Option<PathBuf>,
    /// `SourcePath=`, or the init script.
    pub source_path: Option<PathBuf>,
    /// `RequiresMountsFor=` and `WantsMountsFor=`.
    pub mounts_for: Vec<PathBuf>,
    /// Credentials loaded from elsewhere.
    pub credentials: Vec<Credential>,
    /// Conditions and assertions.
    pub conditions: Vec<Condition>,
    /// `DeviceAllow=`.
    pub device_rules: Vec<DeviceRule>,
    /// `CapabilityBoundingSet=`; `None` if unset.
    pub bounding_set: Option<CapabilitySet>,
    /// `AmbientCapabilities=`.
    pub ambient_capabilities: CapabilitySet,
    /// Addresses that a socket unit listens on.
    pub listen: Vec<Listen>,
    /// Absolute paths in commands and in the environment.
    pub mentioned_paths: BTreeSet<PathBuf>,
    /// Paths below /dev in any of the above.
    pub devices: BTreeSet<PathBuf>,
    /// Dependencies.
    pub dependencies: Dependencies,
    /// `[Install]`.
    pub install: Install,
    /// Letters of specifiers without a known value.
    pub unresolved: BTreeSet<char>,
    /// Invalid assignments as `Key=value`, which systemd ignores.
    pub ignored: Vec<String>,
}

impl Unit {
    /// Reads the facts from the settings.
    pub fn facts(&self, specifiers: &Specifiers) -> UnitFacts {
        let mut read = Reader {
            unit: self,
            specifiers,
            unresolved: BTreeSet::new(),
            ignored: Vec::new(),
        };
        let section = self.name.kind().section();
        let environment = read.environment(section);
        let commands = read.commands(section);
        let dynamic_user = self.settings.flag(section, "DynamicUser").unwrap_or(false);
        let mut facts = UnitFacts {
            name: self.name.clone(),
            service_type: read.text(section, "Type"),
            bus_name: read.text(section, "BusName"),
            user: read.text(section, "User"),
            group: read.text(section, "Group"),
            supplementary_groups: read.words(section, "SupplementaryGroups"),
            dynamic_user,
            directories: read.directories(section, dynamic_user),
            environment_files: read.environment_files(section),
            read_write_paths: read.marked_paths(section, "ReadWritePaths"),
            read_only_paths: read.marked_paths(section, "ReadOnlyPaths"),
            binds: read.binds(section),
            working_directory: read
                .text(section, "WorkingDirectory")
                .and_then(|text| marked(&text)),
            root_directory: read
                .text(section, "RootDirectory")
                .and_then(|text| Some(marked(&text)?.path)),
            // A relative path is below /run: systemd.service(5).
            pid_file: read
                .text(section, "PIDFile")
                .map(|text| run_path(&Path::new("/run").join(text))),
            source_path: read.source_path(),
            mounts_for: read.mounts_for(),
            credentials: read.credentials(section),
            conditions: read.conditions(),
            device_rules: read.device_rules(section),
            bounding_set: read.capabilities(section, "CapabilityBoundingSet", CapabilitySet::ALL),
            ambient_capabilities: read
                .capabilities(section, "AmbientCapabilities", CapabilitySet::NONE)
                .unwrap_or(CapabilitySet::NONE),
            listen: read.listen(section),
            mentioned_paths: mentioned(&commands, &environment),
            devices: BTreeSet::new(),
            dependencies: read.dependencies(section),
            install: read.install(),
            commands,
            environment,
            unresolved: BTreeSet::new(),
            ignored: Vec::new(),
        };
        facts.devices = facts.paths_in_dev();
        facts.unresolved = read.unresolved;
        facts.ignored = read.ignored;
        facts
    }
}

impl UnitFacts {
    /// Iterates over the files that the unit names in its commands or has systemd read. The unit needs them
    /// even if they are private on the host.
    pub fn named_files(&self) -> impl Iterator<Item = &Path> {
        let credentials = self.credentials.iter().filter_map(|it| it.path.as_deref());
        (self.mentioned_paths.iter().map(PathBuf::as_path))
            .chain(self.environment_files.iter().map(|it| it.path.as_path()))
            .chain(credentials)
    }

    fn paths_in_dev(&self) -> BTreeSet<PathBuf> {
        let mut paths: BTreeSet<PathBuf> = self.mentioned_paths.clone();
        paths.extend(
            self.device_rules
                .iter()
                .map(|rule| PathBuf::from(&rule.device)),
        );
        paths.extend(self.binds.iter().map(|bind| bind.source.path.clone()));
        paths.extend(
            self.conditions
                .iter()
                .filter_map(|condition| Some(condition.path()?.to_owned())),
        );
        paths.extend(
            self.read_write_paths
                .iter()
                .map(|marked| marked.path.clone()),
        );
        paths.retain(|path| path.starts_with("/dev") && path != Path::new("/dev/null"));
        paths
    }
}

fn mentioned(commands: &[ExecCommand], environment: &[(String, String)]) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for command in commands {
        paths_in(&command.program, &mut paths);
        command
            .args
            .iter()
            .for_each(|arg| paths_in(arg, &mut paths));
    }
    environment
        .iter()
        .for_each(|(_, value)| paths_in(value, &mut paths));
    paths
}

/// Parses an absolute path with systemd's prefixes; returns `None` for anything else.
fn marked(text: &str) -> Option<MarkedPath> {
    let (optional, path) = text
        .strip_prefix('-')
        .map_or((false, text), |path| (true, path));
    // `+` means relative to RootDirectory=, and nothing without one.
    let path = path.strip_prefix('+').unwrap_or(path);
    path.starts_with('/').then(|| MarkedPath {
        path: normalize(path.as_ref()),
        optional,
    })
}

/// Replaces the old `/var/run` by `/run`, as systemd does.
fn run_path(path: &Path) -> PathBuf {
    let path = normalize(path);
    match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path,
    }
}

#[cfg(test)]
mod tests;
