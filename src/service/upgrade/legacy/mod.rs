//! Sandboxes of libvirt-sandbox up to 0.8: search, conversion, and renaming of their files.
//!
//! | module | what it owns |
//! |---|---|
//! | [`keyfile`] | the syntax of the files |
//! | [`convert`] | conversion to a configuration of this program |
//!
//! The tree stays in its place. Its files count as changed by the administrator; missing ones come from the host, as in any upgrade.

pub mod convert;
pub mod keyfile;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::facts::unit::UnitName;
use crate::service::sandboxes::Sandboxes;
use crate::service::store::Store;
use crate::sys::root::Root;
use convert::{Foreign, filters};

/// A converted sandbox of libvirt-sandbox.
#[derive(Debug)]
pub struct Conversion {
    /// Configuration.
    pub config: SandboxConfig,
    /// A line for each setting that cannot be converted.
    pub notes: Vec<String>,
}

/// Finds the file of a sandbox of libvirt-sandbox; the newer one of its two places counts.
#[must_use]
pub fn find(store: &Store, name: &SandboxName) -> Option<PathBuf> {
    [
        store.dir(name).join("config/sandbox.cfg"),
        store.configs.join(format!("{name}.sandbox")),
    ]
    .into_iter()
    .find(|path| path.is_file())
}

/// Renames a converted file.
///
/// # Errors
/// The file cannot be renamed.
pub fn set_aside(file: &Path) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".converted");
    fs::rename(file, &name).map_err(Error::io("renaming", file))
}

impl Sandboxes {
    /// Reads and converts the file of a sandbox of libvirt-sandbox. Nothing on disk changes.
    ///
    /// # Errors
    /// The file is invalid or cannot be converted, or its units cannot be determined.
    pub(super) fn convert(&self, name: &SandboxName, file: &Path) -> Result<Conversion> {
        let text = fs::read_to_string(file).map_err(Error::io("reading", file))?;
        let wrong = |error: &dyn std::fmt::Display| {
            Error::config(file)(format!("{error}; nothing was changed"))
        };
        let foreign = Foreign::parse(&text, name, &self.store.trees);
        let foreign = foreign.map_err(|error| wrong(&error))?;
        if !foreign.tree.is_dir() {
            return Err(Error::Config {
                path: file.to_owned(),
                reason: format!(
                    "there is no directory '{}' with its files; nothing was changed",
                    foreign.tree.display()
                ),
            });
        }
        let units = match foreign.is_command {
            true => vec![],
            false => units(&foreign.tree, &self.store.unit(name))?,
        };
        if units.is_empty() && !foreign.is_command {
            return Err(Error::Config {
                path: file.to_owned(),
                reason: format!(
                    "nothing says which units run in it: neither '{}/etc/systemd/system/multi-user.target.wants' nor '{}'; enable them \
                     in one of these",
                    foreign.tree.display(),
                    self.store.unit(name).display()
                ),
            });
        }
        let document = self
            .connector
            .open(&self.connection)?
            .definition(name.as_str())?;
        let filters = document.as_deref().map(filters).unwrap_or_default();
        let fresh = uuid::Uuid::new_v4();
        let (config, notes) = foreign
            .convert(name, &self.connection, units, fresh, &filters)
            .map_err(|error| wrong(&error))?;
        let checked = config.check();
        checked.map_err(|error| wrong(&error))?;
        Ok(Conversion { config, notes })
    }
}

/// Returns the units that are enabled in a tree, or else those that the host's unit reloads.
fn units(tree: &Path, host_unit: &Path) -> Result<Vec<String>> {
    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
    let is_unit = |name: &str| name.parse::<UnitName>().is_ok();
    let names = match Root::new(tree)?.object(Path::new(WANTS)) {
        Ok(directory) if directory.metadata()?.is_dir() => directory.names()?,
        Ok(_) | Err(_) => vec![],
    };
    let enabled: Vec<String> = names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| is_unit(name))
        .collect();
    if !enabled.is_empty() {
        return Ok(enabled);
    }
    let text = fs::read_to_string(host_unit).unwrap_or_default();
    let passed: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ReloadPropagatedFrom="))
        .flat_map(str::split_whitespace)
        .filter(|name| is_unit(name))
        .map(str::to_owned)
        .collect();
    Ok(passed.into_iter().collect())
}
