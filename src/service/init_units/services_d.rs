//! `services.d`: what a service needs that neither its unit nor its package says.
//!
//! A file names a package and commands that initialise something inside the sandbox before the service starts. The files that
//! come with the program are built in; one of the same name in `/usr/share/virt-sandbox/services.d` or
//! `/etc/libvirt-sandbox/services.d` replaces it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::SandboxConfig;
use crate::domain::template::Template;
use crate::error::{Error, Result};

/// Files that come with the program.
const BUILT_IN: [(&str, &str); 1] = [(
    "openssh-server.toml",
    include_str!("../../../services.d/openssh-server.toml"),
)];

/// Directories whose files replace those, the last one first in rank.
const DIRS: [&str; 2] = [
    "/usr/share/virt-sandbox/services.d",
    "/etc/libvirt-sandbox/services.d",
];

/// A file of `services.d`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Addition {
    /// The package whose services need it.
    package: String,
    /// What a sandbox is known by, which a clone has to have made anew: paths whose last name may have `*` in it.
    #[serde(default)]
    identity: Vec<PathBuf>,
    /// Commands that run before them.
    #[serde(default)]
    init: Vec<Init>,
}

/// A command that initialises something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Init {
    /// What it does.
    description: String,
    /// A path of the sandbox; where it exists there is nothing to do.
    unless_exists: Option<String>,
    /// Program, as an absolute path, and arguments.
    command: Vec<String>,
}

/// A unit that is made for the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitUnit {
    /// Its name.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// The units that initialise what the services of `config` need.
///
/// # Errors
/// A file that is not right, by name.
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

/// What the services of `config` are known by: paths whose last name may have `*` in it.
///
/// # Errors
/// A file that is not right, by name.
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
