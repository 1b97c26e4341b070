//! Metadata of an archive about its host, and the check whether this host fits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{SandboxConfig, SandboxName};
use crate::error::{Error, Result};
use crate::facts::package::{self, PackageName};
use crate::facts::unit::load::dirs::Located;
use crate::facts::unit::{UnitDirs, UnitName};
use crate::host::OsRelease;
use crate::sys::arch::Arch;

/// Version of the archive's layout.
const FORMAT: u32 = 1;

/// Metadata of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::service) struct Metadata {
    /// [`FORMAT`] of the archive.
    format: u32,
    /// Name of the sandbox.
    pub(in crate::service) name: SandboxName,
    /// Architecture of the host.
    architecture: String,
    /// Distribution of the host.
    os: OsRelease,
    /// Versions of the packages that belong to the service.
    packages: BTreeMap<String, String>,
    /// Units in the host's `/usr` rather than in the tree.
    host_units: Vec<String>,
}

impl Metadata {
    /// Collects the metadata of a sandbox with the tree `tree`, of the host at `root`.
    ///
    /// # Errors
    /// Files of the tree or of the host cannot be read.
    pub(in crate::service) fn of(root: &Path, config: &SandboxConfig, tree: &Path) -> Result<Self> {
        let own =
            UnitDirs::scan(tree).map_err(Error::step("looking for units in the sandbox's tree"))?;
        let is_hosts = |unit: &&String| {
            // A link in the tree may point into the host's /usr.
            UnitName::exact(unit).is_ok_and(|unit| {
                matches!(
                    own.locate(&unit),
                    Located::Dangling { .. } | Located::Nowhere
                )
            })
        };
        Ok(Self {
            format: FORMAT,
            name: config.name.clone(),
            architecture: Arch::HOST.name().to_owned(),
            os: OsRelease::read(root),
            packages: versions(root, &config.service_packages)?,
            host_units: config
                .workload
                .host_units()
                .iter()
                .filter(is_hosts)
                .cloned()
                .collect(),
        })
    }

    pub(in crate::service) fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let wrong = || Error::step("reading the metadata of the archive");
        let version: Version = serde_json::from_slice(text).map_err(wrong())?;
        if version.format != FORMAT {
            return Err(Error::refused(format!(
                "the archive has format {}, but this program knows format {FORMAT}; import it with the version of \
                 virt-sandbox that made it, or a later one",
                version.format
            )));
        }
        serde_json::from_slice(text).map_err(wrong())
    }

    /// Checks that the sandbox can run on the host at `root`, and logs mere differences.
    ///
    /// # Errors
    /// The host has another architecture, or lacks a package or a unit; the message names them.
    pub(in crate::service) fn check(&self, root: &Path) -> Result<()> {
        let own = Arch::HOST.name();
        if self.architecture != own {
            return Err(Error::refused(format!(
                "the archive is of a host with the architecture {}, and this host is {own}",
                self.architecture
            )));
        }
        let names: Vec<String> = self.packages.keys().cloned().collect();
        let here = versions(root, &names)?;
        let missing: BTreeSet<&str> = names
            .iter()
            .filter(|name| !here.contains_key(*name))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            return Err(Error::unsupported(format!(
                "the sandbox needs packages that this host lacks: {}; install them",
                Vec::from_iter(missing).join(", ")
            )));
        }
        let dirs = UnitDirs::scan(root).map_err(Error::step("looking for units"))?;
        for unit in &self.host_units {
            let name = UnitName::exact(unit).map_err(Error::step("reading the archive"))?;
            let is_there = match dirs.locate(&name) {
                // A sandbox does not see the host's /etc.
                Located::Fragment { path, .. } => !path.starts_with("/etc"),
                // A unit that the host masks exists nevertheless.
                Located::SysV { .. } | Located::Masked { .. } => true,
                Located::Dangling { .. } | Located::Nowhere => false,
            };
            if !is_there {
                return Err(Error::unsupported(format!(
                    "the sandbox runs '{unit}', which this host does not have; install its package"
                )));
            }
        }
        self.compare(&OsRelease::read(root), &here)
            .iter()
            .for_each(|line| log::warn!("{line}"));
        Ok(())
    }

    /// Returns a line for each difference to a host with these packages.
    fn compare(&self, os: &OsRelease, packages: &BTreeMap<String, String>) -> Vec<String> {
        let mut lines = Vec::new();
        if (&self.os.id, &self.os.version_id) != (&os.id, &os.version_id) {
            lines.push(format!(
                "the archive is of a host with {}, and this one is {}",
                self.os.pretty_name, os.pretty_name
            ));
        }
        for (name, version) in &self.packages {
            if let Some(here) = packages.get(name).filter(|here| *here != version) {
                lines.push(format!(
                    "the archive was made with {name} {version}, and here it is {here}"
                ));
            }
        }
        lines
    }
}

/// Returns the versions of the installed ones of these packages.
fn versions(root: &Path, names: &[String]) -> Result<BTreeMap<String, String>> {
    let Some(database) = package::open(root)? else {
        return Ok(BTreeMap::new());
    };
    let version = |name: &String| {
        let info = database.info(&PackageName::from(name.as_str())).ok()?;
        Some((name.clone(), info.version))
    };
    Ok(names.iter().filter_map(version).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            format: FORMAT,
            name: "web1".parse().unwrap(),
            architecture: Arch::HOST.name().to_owned(),
            os: OsRelease {
                id: "debian".into(),
                version_id: "12".into(),
                pretty_name: "Debian 12".into(),
            },
            packages: [("apache2".to_owned(), "2.4.1".to_owned())].into(),
            host_units: vec![],
        }
    }

    #[test]
    fn differences_are_listed() {
        let metadata = metadata();
        assert_eq!(metadata.compare(&metadata.os, &metadata.packages), [""; 0]);
        let other = OsRelease {
            version_id: "13".into(),
            pretty_name: "Debian 13".into(),
            ..metadata.os.clone()
        };
        let packages = [("apache2".to_owned(), "2.4.2".to_owned())].into();
        let lines = metadata.compare(&other, &packages).join("\n");
        for word in ["Debian 12", "Debian 13", "2.4.1", "2.4.2"] {
            assert!(lines.contains(word), "{lines}");
        }
    }

    #[test]
    fn unsuitable_hosts_are_refused() {
        let refused = |metadata: &Metadata| metadata.check(Path::new("/")).unwrap_err().to_string();
        let elsewhere = Metadata {
            architecture: "vax".into(),
            ..metadata()
        };
        assert!(refused(&elsewhere).contains("vax"));
        let text = r#"{"format": 99, "future": true}"#;
        let error = Metadata::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("format 99"), "{error}");
    }
}
