//! `services.d`: needs of services that neither their units nor their packages declare.
//!
//! A file names a package and commands that initialise something inside the sandbox before the service starts. Some files
//! are built in; a file of the same name in `/usr/share/virt-sandbox/services.d` or
//! `/etc/libvirt-sandbox/services.d` replaces the built-in one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::SandboxConfig;
use crate::domain::template::Template;
use crate::error::{Error, Result};

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
    package: String,
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
        if !config.service_packages.contains(&addition.package) {
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
        .filter(|addition| config.service_packages.contains(&addition.package));
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
