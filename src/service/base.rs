//! Record of the origin of a sandbox: manifest of its `/etc`, entries of its accounts, versions of the packages, and
//! the known paths of the service.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::facts::accounts::Texts;
use crate::facts::discover::Service;
use crate::service::store::Store;
use crate::sys::file::atomic;
use crate::tree::manifest::Manifest;
use crate::tree::{Class, TreePlan, var};

/// All records of the origin of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Manifest of `/etc`.
    pub manifest: Manifest,
    /// The other records.
    pub base: Base,
}

impl Provenance {
    /// Reads the records of the sandbox `name`.
    ///
    /// # Errors
    /// The records cannot be read, or there is no manifest.
    pub(super) fn load(store: &Store, name: &SandboxName) -> Result<Self> {
        let path = store.manifest(name);
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        Ok(Self {
            manifest: text
                .parse()
                .map_err(Error::step(format!("reading '{}'", path.display())))?,
            base: Base::load(&store.base(name))?,
        })
    }

    /// Writes the records of the sandbox `name`.
    ///
    /// # Errors
    /// The records cannot be written.
    pub fn save(&self, store: &Store, name: &SandboxName) -> Result<()> {
        let text = self.manifest.to_string();
        atomic::write(&store.manifest(name), text.as_bytes(), 0o600)?;
        self.base.save(&store.base(name))
    }
}

/// Author of a sandbox's list of units and packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The administrator of this host: the sandbox gets all files of the units and packages, secrets included.
    #[default]
    Admin,
    /// An archive, whose author may be after their secrets: an upgrade brings only files that every user of the
    /// host may read.
    Archive,
}

impl Origin {
    fn is_admin(&self) -> bool {
        *self == Self::Admin
    }
}

/// The record beside the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Base {
    /// Author of the list of units and packages.
    #[serde(default, skip_serializing_if = "Origin::is_admin")]
    pub origin: Origin,
    /// Account files as they were written.
    pub accounts: Texts,
    /// Versions of the service's packages.
    pub versions: BTreeMap<String, String>,
    /// Known paths outside of `/etc` that belong to the service: any other path is new to an upgrade.
    pub paths: BTreeSet<PathBuf>,
}

impl Base {
    /// Makes the record of a sandbox created by `plan`, from units and packages that the administrator named.
    ///
    /// # Errors
    /// The package database cannot be read.
    pub fn of(plan: &TreePlan, service: &Service) -> Result<Self> {
        let written = |path: &str| match plan.entries.get(Path::new(path)) {
            Some(entry) => match &entry.class {
                Class::Written { content, .. } => content.clone(),
                Class::Copied
                | Class::CopiedFrom(_)
                | Class::Empty
                | Class::Made { .. }
                | Class::Linked(_)
                | Class::LeftOut
                | Class::Shared => String::new(),
            },
            None => String::new(),
        };
        Ok(Self {
            origin: Origin::Admin,
            accounts: Texts {
                passwd: written("/etc/passwd"),
                group: written("/etc/group"),
                shadow: written("/etc/shadow"),
                gshadow: written("/etc/gshadow"),
            },
            versions: service.versions()?,
            paths: service
                .paths
                .keys()
                .filter(|path| var::is_private(path))
                .cloned()
                .collect(),
        })
    }

    /// Loads the record; returns an empty one if there is none.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(Error::config(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("reading", path)(error)),
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        atomic::write(path, &self.to_json()?, 0o600)?;
        Ok(())
    }

    /// Serialises the record.
    ///
    /// # Errors
    /// The record cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(Error::step("recording what a sandbox is made from"))
    }
}
