//! `services.d`: needs of services that neither their units nor their packages declare.
//!
//! A file names a package, units or programs, and commands that initialise something inside the sandbox before the service
//! starts. Some files are built in; a file of the same name in `/usr/share/virt-sandbox/services.d` or
//! `/etc/libvirt-sandbox/services.d` replaces the built-in one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Command, SandboxConfig};
use crate::domain::template::Template;
use crate::error::{Error, Result};
use crate::facts::unit::UnitName;

/// Built-in files.
const BUILT_IN: [(&str, &str); 1] = [(
    "openssh-server.toml",
    include_str!("../../../services.d/openssh-server.toml"),
)];

/// Directories with files that replace the built-in ones; the last one has the highest rank.
const DIRS: [&str; 2] = [
    "/usr/share/virt-sandbox/services.d",
    "/etc/libvirt-sandbox/services.d",
];

/// A file of `services.d`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Addition {
    /// Package whose services need it.
    package: Option<String>,
    /// Units that need it, whatever their package is: names without instance and type.
    #[serde(default)]
    units: Vec<String>,
    /// Programs of commands that need it.
    #[serde(default)]
    programs: Vec<String>,
    /// Identity files, which a clone must create anew: paths with `*` allowed in the last component.
    #[serde(default)]
    identity: Vec<PathBuf>,
    /// Commands that run before the services.
    #[serde(default)]
    init: Vec<Init>,
}

/// A command that initialises something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Init {
    /// Description.
    description: String,
    /// Path in the sandbox; if it exists, the command is skipped.
    unless_exists: Option<String>,
    /// Program, as an absolute path, and arguments.
    command: Vec<String>,
}

impl Addition {
    /// Returns true if the workload of `config` needs it.
    fn is_for(&self, config: &SandboxConfig) -> bool {
        let mut packages = self.package.iter();
        let mut units = config.keep_units.iter();
        let program = config.workload.command().map(Command::program);
        packages.any(|package| config.service_packages.contains(package))
            || units.any(|unit| self.names(unit))
            || program.is_some_and(|program| self.programs.iter().any(|own| own == program))
    }

    fn names(&self, unit: &str) -> bool {
        let unit = UnitName::exact(unit);
        unit.is_ok_and(|unit| self.units.iter().any(|own| own == unit.prefix()))
    }
}

/// A generated unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitUnit {
    /// Name.
    pub name: String,
    /// Text.
    pub content: String,
}

/// Returns the units that initialise the services of `config`.
///
/// # Errors
/// A file is invalid; the message names it.
pub fn init_units(config: &SandboxConfig, templates: &Path) -> Result<Vec<InitUnit>> {
    #[derive(Serialize)]
    struct View<'a> {
        origin: &'a str,
        description: &'a str,
        unless_exists: Option<&'a str>,
        command: &'a [String],
        units: &'a [String],
    }
    let mut units = Vec::new();
    for (origin, addition) in additions()? {
        if !addition.is_for(config) {
            continue;
        }
        for (index, init) in addition.init.iter().enumerate() {
            let view = View {
                origin: &origin,
                description: &init.description,
                unless_exists: init.unless_exists.as_deref(),
                command: &init.command,
                units: config.units(),
            };
            let stem = origin.trim_end_matches(".toml");
            units.push(InitUnit {
                name: format!("virt-sandbox-init-{stem}-{index}.service"),
                content: Template::InitUnit.render(&view, Some(templates))?,
            });
        }
    }
    Ok(units)
}

/// Returns the identity files of the services of `config`: paths with `*` allowed in the last component.
///
/// # Errors
/// A file is invalid; the message names it.
pub fn identity(config: &SandboxConfig) -> Result<Vec<PathBuf>> {
    let own = additions()?
        .into_values()
        .filter(|addition| addition.is_for(config));
    Ok(own.flat_map(|addition| addition.identity).collect())
}

fn additions() -> Result<BTreeMap<String, Addition>> {
    let mut texts: BTreeMap<String, (PathBuf, String)> = BUILT_IN
        .iter()
        .map(|(name, text)| {
            (
                (*name).to_owned(),
                (PathBuf::from(name), (*text).to_owned()),
            )
        })
        .collect();
    for dir in DIRS.map(Path::new) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                let text = fs::read_to_string(&path).map_err(Error::io("reading", &path))?;
                texts.insert(
                    entry.file_name().to_string_lossy().into_owned(),
                    (path, text),
                );
            }
        }
    }
    texts
        .into_iter()
        .map(|(name, (path, text))| {
            let addition = toml::from_str(&text).map_err(Error::config(&path))?;
            Ok((name, addition))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workload;

    #[test]
    fn a_service_is_known_by_its_package_its_unit_or_its_program() {
        let base = SandboxConfig {
            keep_units: vec![],
            service_packages: vec![],
            ..SandboxConfig::example()
        };
        let of_unit = |unit: &str| SandboxConfig {
            keep_units: vec![unit.to_owned()],
            ..base.clone()
        };
        let of_program = |program: &str| SandboxConfig {
            workload: Workload::Command(Command {
                argv: vec![program.to_owned()],
                ..Command::default()
            }),
            ..base.clone()
        };
        let of_package = SandboxConfig {
            service_packages: vec!["openssh-server".to_owned()],
            ..base.clone()
        };
        for (config, expected) in [
            (of_unit("ssh.service"), 1),
            (of_unit("sshd@7.service"), 1),
            (of_unit("sshguard.service"), 0),
            (of_program("/usr/bin/sshd"), 1),
            (of_program("/usr/bin/ssh"), 0),
            (of_package, 1),
            (base.clone(), 0),
        ] {
            let units = init_units(&config, Path::new("/nonexistent")).unwrap();
            assert_eq!(units.len(), expected, "{config:?}");
            assert_eq!(identity(&config).unwrap().is_empty(), expected == 0);
        }
    }
}
