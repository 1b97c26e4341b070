//! Plan of an upgrade, made without changing the sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::config::{Mount, SandboxConfig, State, Workload};
use crate::error::{Error, Result};
use crate::facts::accounts::Texts;
use crate::facts::discover::{Fact, Service};
use crate::guest;
use crate::service::base::{Base, Origin};
use crate::service::preflight;
use crate::service::provision::create::{keep_units, program_mounts, resolve_workload};
use crate::service::sandbox::Sandbox;
use crate::service::upgrade::accounts::{self, Note};
use crate::service::upgrade::merge::{self, Change};
use crate::service::upgrade::public;
use crate::sys::root::Root;
use crate::tree::manifest::{Kind, Manifest};
use crate::tree::{self, Class, TreePlan, var};

/// Maximum size of an account file, in bytes.
const LONGEST: u64 = 16 << 20;

/// Plan of an upgrade.
#[derive(Debug)]
pub struct Plan {
    /// New configuration.
    pub config: SandboxConfig,
    /// Changes in `/etc`.
    pub changes: Vec<Change>,
    /// Changes of accounts.
    pub notes: Vec<Note>,
    /// New paths outside of `/etc`, parents first.
    pub appearing: BTreeMap<PathBuf, tree::Entry>,
    /// Descriptions of packages with another version than before.
    pub packages: Vec<String>,
    /// Paths and mounts of the host that are withheld, because an archive named the units and packages.
    pub withheld: Vec<String>,
    /// New content of the account files that change.
    pub(super) accounts: BTreeMap<&'static str, String>,
    /// Present state of the host.
    pub(super) host: Manifest,
    /// Present state of the sandbox.
    pub(super) sandbox: Manifest,
    /// New record.
    pub(super) base: Base,
    /// Directory with the host's version of the tree.
    pub(super) candidate: PathBuf,
}

impl Sandbox<'_> {
    /// Plans the upgrade of the sandbox, whose tree has the top `tree`; the host's version of it is made in the empty directory
    /// `candidate`. With `trust` it is taken as one that the admin has named from now on.
    pub(super) fn plan_upgrade(&self, tree: &Path, candidate: &Path, trust: bool) -> Result<Plan> {
        let (old, store) = (self.config(), self.store());
        let root = self.host().root.as_path();
        let before = Base::load(&store.base(&old.name))?;
        let origin = if trust { Origin::Admin } else { before.origin };
        let (workload, mut service) =
            resolve_workload(root, &old.workload, &old.packages, &old.hostname)?;
        if origin == Origin::Archive {
            public::keep_public_facts(&mut service, root);
        }
        let driver = self.driver()?;
        preflight::check(
            root,
            &service,
            driver.container(),
            &old.capabilities,
            &old.devices,
        )?;
        let mut config = renewed(old, workload, &service);
        let new_mounts = new_mounts(&config, &service);
        match origin {
            Origin::Admin => config.mounts.extend(new_mounts.iter().cloned()),
            Origin::Archive => {}
        }
        let path = store.config(&old.name);
        config.check().map_err(Error::config(&path))?;
        driver.check(&config)?;
        let in_sandbox = Root::new(tree)?;
        let mut planned = TreePlan::new(root, &config, &service, State::Fresh)?;
        take_shipped(&mut planned, &service);
        let (skipped, unseen) = match origin {
            Origin::Admin => (BTreeSet::new(), &[][..]),
            Origin::Archive => (public::keep_public(&mut planned, root), &new_mounts[..]),
        };
        let appearing = appearing(&planned, &before, &service, &in_sandbox)?;
        let base = Base {
            origin,
            ..Base::of(&planned, &service)?
        };
        retain(&mut planned, &appearing);
        tree::apply(&planned, root, candidate, &|| self.host().is_cancelled())?;

        let etc = [Path::new("/etc")];
        let recorded = self.recorded_manifest()?;
        let host = Manifest::scan(candidate, &etc)?;
        if origin == Origin::Archive {
            let all = guest::PRIVATE_DIRS.map(Path::new);
            public::check_copies(&planned, &Manifest::scan(candidate, &all)?)?;
        }
        let sandbox = Manifest::scan(tree, &etc)?;
        let (accounts, notes) =
            merge_accounts(&before.accounts, &base.accounts, &sandbox, &in_sandbox)?;
        let mut three = [recorded, host.clone(), sandbox.clone()];
        for path in accounts::ACCOUNTS.map(Path::new) {
            if is_file(&sandbox, path) {
                for manifest in &mut three {
                    manifest.remove(path);
                }
            }
        }
        for manifest in &mut three {
            public::forget(manifest, &skipped);
        }
        let [recorded, host_now, sandbox_now] = &three;
        Ok(Plan {
            changes: merge::merge(recorded, host_now, sandbox_now),
            packages: newer(&before.versions, &base.versions),
            config,
            notes,
            appearing,
            withheld: public::tops(&skipped)
                .map(|path| path.display().to_string())
                .chain(unseen.iter().map(|mount| format!("mount {mount}")))
                .collect(),
            accounts,
            host,
            sandbox,
            base,
            candidate: candidate.to_owned(),
        })
    }

    /// Returns what its `/etc` was made from; nothing for a sandbox that was made by another program.
    fn recorded_manifest(&self) -> Result<Manifest> {
        let path = self.store().manifest(self.name());
        match fs::read_to_string(&path) {
            Ok(text) => text
                .parse()
                .map_err(Error::step(format!("reading '{}'", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Manifest::default()),
            Err(error) => Err(Error::io("reading", &path)(error)),
        }
    }
}

impl Plan {
    /// Returns true if the upgrade changes anything that the sandbox runs.
    #[must_use]
    pub fn is_relevant(&self) -> bool {
        let is_change = |change: &Change| change.action != merge::Action::Keep;
        self.changes.iter().any(is_change)
            || !self.accounts.is_empty()
            || !self.appearing.is_empty()
            || !self.packages.is_empty()
    }
}

/// Returns the configuration with updated facts; settings of the administrator stay.
fn renewed(old: &SandboxConfig, workload: Workload, service: &Service) -> SandboxConfig {
    let mut config = old.clone();
    if let Workload::Units(_) = workload {
        config.workload = workload;
    }
    config.service_packages = service.packages.keys().map(ToString::to_string).collect();
    let kept = old
        .keep_units
        .iter()
        .cloned()
        .chain(keep_units(service, &config.workload));
    config.keep_units = kept.collect::<BTreeSet<_>>().into_iter().collect();
    config.complete_networks();
    config
}

/// Returns the missing mounts of programs outside of `/usr` that the units run.
fn new_mounts(config: &SandboxConfig, service: &Service) -> Vec<Mount> {
    let mut mounts = program_mounts(service, &config.workload);
    mounts.retain(|mount| {
        let mut had = config.mounts.iter();
        !had.any(|had| had.target() == mount.target())
    });
    mounts
}

/// Plans files that a package ships in a state directory: they are no state of the service yet.
fn take_shipped(plan: &mut TreePlan, service: &Service) {
    for (path, fact) in &service.paths {
        let is_shipped = matches!(fact, Fact::Package(_)) && !var::is_transient(path);
        if let Some(entry) = plan.entries.get_mut(path)
            && is_shipped
            && entry.class == Class::LeftOut
            && !path.starts_with("/etc")
        {
            *entry = tree::Entry {
                class: Class::Copied,
                reason: fact.to_string(),
            };
        }
    }
}

/// Returns new paths of the plan that the sandbox lacks. A path that existed once was removed on purpose and stays away, and
/// so does everything in a directory that the sandbox had before.
fn appearing(
    plan: &TreePlan,
    before: &Base,
    service: &Service,
    sandbox: &Root,
) -> Result<BTreeMap<PathBuf, tree::Entry>> {
    let mut found: BTreeMap<PathBuf, tree::Entry> = BTreeMap::new();
    for (path, entry) in &plan.entries {
        if path.starts_with("/etc") || matches!(entry.class, Class::LeftOut | Class::Shared) {
            continue;
        }
        let top = path
            .ancestors()
            .find(|above| service.paths.contains_key(*above));
        let is_wanted = match top {
            Some(top) if top == path => !before.paths.contains(path),
            Some(top) => found.contains_key(top),
            None => matches!(entry.class, Class::Empty | Class::Made { .. }),
        };
        // If a parent is a link or a file in the sandbox, nothing is added below it.
        let is_missing = matches!(sandbox.has(path), Ok(false));
        let parent = path.parent().unwrap_or(Path::new("/"));
        let has_parent = || {
            found.contains_key(parent)
                || sandbox
                    .plain_object(parent)
                    .and_then(|object| object.metadata())
                    .is_ok_and(|metadata| metadata.is_dir())
        };
        if is_wanted && is_missing && has_parent() {
            found.insert(path.clone(), entry.clone());
        }
    }
    Ok(found)
}

/// Reduces the plan to `/etc`, the new paths, and their parents.
fn retain(plan: &mut TreePlan, appearing: &BTreeMap<PathBuf, tree::Entry>) {
    let ways: BTreeSet<&Path> = appearing.keys().flat_map(|path| path.ancestors()).collect();
    plan.entries
        .retain(|path, _| path.starts_with("/etc") || ways.contains(path.as_path()));
}

fn is_file(manifest: &Manifest, path: &Path) -> bool {
    manifest
        .get(path)
        .is_some_and(|entry| matches!(entry.kind, Kind::File { .. }))
}

type MergedAccounts = (BTreeMap<&'static str, String>, Vec<Note>);

/// Merges the account files that the sandbox has.
fn merge_accounts(
    base: &Texts,
    host: &Texts,
    sandbox: &Manifest,
    tree: &Root,
) -> Result<MergedAccounts> {
    let read = |path: &'static str| match is_file(sandbox, Path::new(path)) {
        true => text(tree, Path::new(path)).map(Some),
        false => Ok(None),
    };
    let [passwd, group, shadow, gshadow] = accounts::ACCOUNTS;
    let own = [read(passwd)?, read(group)?, read(shadow)?, read(gshadow)?];
    let [p, g, s, gs] = own.clone().map(Option::unwrap_or_default);
    let texts = Texts {
        passwd: p,
        group: g,
        shadow: s,
        gshadow: gs,
    };
    let (merged, mut notes) = accounts::merge(base, host, &texts);
    let merged = [merged.passwd, merged.group, merged.shadow, merged.gshadow];
    let mut changed = BTreeMap::new();
    for ((path, own), merged) in accounts::ACCOUNTS.into_iter().zip(own).zip(merged) {
        match own {
            Some(own) if own != merged => drop(changed.insert(path, merged)),
            Some(_) => {}
            None => notes.retain(|note| note.path != path),
        }
    }
    Ok((changed, notes))
}

/// Reads the text of a file in the sandbox.
fn text(tree: &Root, path: &Path) -> Result<String> {
    let on_host = tree.host_path(path);
    let mut text = String::new();
    tree.open_plain(path)?
        .take(LONGEST + 1)
        .read_to_string(&mut text)
        .map_err(Error::io("reading", &on_host))?;
    if text.len() as u64 > LONGEST {
        return Err(Error::refused(format!(
            "'{}' is longer than {LONGEST} bytes, too long for a file of accounts; examine it",
            on_host.display()
        )));
    }
    Ok(text)
}

/// Describes the packages whose version changed.
fn newer(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let mut words = Vec::new();
    for (package, version) in now {
        match before.get(package) {
            Some(old) if old == version => {}
            Some(old) => words.push(format!("{package} {old} is {version} now")),
            None => words.push(format!("{package} {version} is new")),
        }
    }
    let gone = before.keys().filter(|package| !now.contains_key(*package));
    words.extend(gone.map(|package| format!("{package} is gone")));
    words
}
