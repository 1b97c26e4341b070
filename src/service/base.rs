//! What a sandbox was made from: the manifest of its `/etc`, the entries of its accounts, the versions of the packages, and
//! which paths were known to be the service's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::SandboxName;
use crate::error::{Error, Result};
use crate::facts::accounts::Texts;
use crate::facts::discover::Service;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Store;
use crate::sys::file::atomic;
use crate::tree::manifest::Manifest;
use crate::tree::{Class, TreePlan, var};

/// All that is recorded of what a sandbox was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Its `/etc`.
    pub manifest: Manifest,
    /// The rest.
    pub base: Base,
}

impl Provenance {
    /// Writes the records of the sandbox `name`.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn save(&self, store: &Store, name: &SandboxName) -> Result<()> {
        let text = self.manifest.to_string();
        atomic::write(&store.manifest(name), text.as_bytes(), 0o600)?;
        self.base.save(&store.base(name))
    }
}

impl Sandboxes {
    /// The records of a sandbox.
    ///
    /// # Errors
    /// Where they cannot be read, or there is no manifest.
    pub(super) fn recorded(&self, name: &SandboxName) -> Result<Provenance> {
        let path = self.store.manifest(name);
        let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
        Ok(Provenance {
            manifest: text
                .parse()
                .map_err(Error::step(format!("reading '{}'", path.display())))?,
            base: Base::load(&self.store.base(name))?,
        })
    }
}

/// Origin of a sandbox's units and packages: who has named them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The admin of this host: what belongs to them belongs to the sandbox, secrets too.
    #[default]
    Admin,
    /// An archive, whose maker may have chosen them for their secrets: an upgrade brings only what every user of the
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
    /// Origin of the sandbox's units and packages: who has named them.
    #[serde(default, skip_serializing_if = "Origin::is_admin")]
    pub origin: Origin,
    /// The account files as they were written.
    pub accounts: Texts,
    /// Versions of the service's packages.
    pub versions: BTreeMap<String, String>,
    /// Paths outside of `/etc` that belong to the service, as they were found: what is not among them is new to an upgrade.
    pub paths: BTreeSet<PathBuf>,
}

impl Base {
    /// Returns the record of a sandbox that is made by `plan`, from units and packages that the admin has named.
    ///
    /// # Errors
    /// Where the package database cannot be read.
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

    /// Reads the record; an empty one where there is none.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| Error::Config {
                path: path.to_owned(),
                reason: error.to_string(),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("reading", path)(error)),
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        atomic::write(path, &self.to_json()?, 0o600)?;
        Ok(())
    }

    /// The record as it is written.
    ///
    /// # Errors
    /// None that is known of.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(Error::step("recording what a sandbox is made from"))
    }
}
