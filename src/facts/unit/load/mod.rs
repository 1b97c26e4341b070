//! One unit put together from its fragment, its drop-ins and its `.wants` and `.requires`.
//!
//! [`super::facts`] interprets the settings.

pub mod dirs;
pub mod drop_ins;
pub(super) mod root;
pub mod sysv;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::dirs::{Located, ScanError, Subdir, UnitDirs};
use self::sysv::LsbHeader;
use super::name::UnitName;
use super::name::suggest::nearest;
use super::syntax::{Settings, Warning, parse};
use crate::sys::path::below;

/// Reason why a unit cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is neither a unit file nor an init script of this name.
    #[error("loading unit '{name}': not found{}", hint(near))]
    NotFound {
        /// Requested name.
        name: UnitName,
        /// Similar names, the best first.
        near: Vec<UnitName>,
    },
    /// The name is a link to a unit that does not exist.
    #[error(
        "loading unit '{name}': it is a link to '{target}', which does not exist; remove the link, or install what has \
         '{target}'"
    )]
    Dangling {
        /// Requested name.
        name: UnitName,
        /// Target of the link.
        target: UnitName,
    },
    /// The unit is masked and must not be started.
    #[error("loading unit '{name}': masked by '{path}'")]
    Masked {
        /// Requested name.
        name: UnitName,
        /// File that masks it, as seen from the root.
        path: PathBuf,
    },
    /// The name is a template, and only an instance can be started.
    #[error("loading unit '{name}': a template needs an instance, such as '{}@INSTANCE.{}'", name.prefix(), name.kind().suffix())]
    NoInstance {
        /// The template.
        name: UnitName,
    },
    /// A file of the unit cannot be read.
    #[error("reading '{path}'")]
    Read {
        /// The file, as seen from the root.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// A directory of the unit cannot be listed.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

fn hint(near: &[UnitName]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<String> = near.iter().map(|name| format!("'{name}'")).collect();
    format!(", did you mean {}?", names.join(" or "))
}

/// Source of a unit's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitSource {
    /// A unit file, as seen from the root.
    Fragment(PathBuf),
    /// An init script, as read by systemd-sysv-generator(8).
    SysV {
        /// The script, as seen from the root.
        script: PathBuf,
        /// Header of the script.
        header: LsbHeader,
    },
}

impl UnitSource {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Fragment(path) | Self::SysV { script: path, .. } => path,
        }
    }
}

/// A unit as systemd would load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Canonical name, with aliases resolved.
    pub name: UnitName,
    /// Aliases.
    pub aliases: Vec<UnitName>,
    /// Main file.
    pub source: UnitSource,
    /// Drop-ins in the order in which they apply, as seen from the root.
    pub drop_ins: Vec<PathBuf>,
    /// Settings of all files, in order.
    pub settings: Settings,
    /// Units in the `.wants` directories.
    pub wants_links: Vec<UnitName>,
    /// Units in the `.requires` directories.
    pub requires_links: Vec<UnitName>,
    /// Skipped lines.
    pub warnings: Vec<Warning>,
}

impl Unit {
    /// Makes a unit from a text; `path` is the place where its file would be.
    pub fn from_text(name: UnitName, path: &Path, text: &str) -> Self {
        let (settings, warnings) = parse(path, text.as_bytes());
        Self {
            name,
            aliases: vec![],
            source: UnitSource::Fragment(path.to_owned()),
            drop_ins: vec![],
            settings,
            wants_links: vec![],
            requires_links: vec![],
            warnings,
        }
    }
}

impl UnitDirs {
    /// Loads a unit; follows aliases, and uses the template if an instance has no file of its own.
    ///
    /// # Errors
    /// [`LoadError`]: not found (with similar names), masked, or not readable.
    pub fn load(&self, name: &UnitName) -> Result<Unit, LoadError> {
        let (name, source, (settings, warnings)) = match self.locate(name) {
            Located::Fragment { name, path } => {
                let parsed = parse(&path, &self.read(&path)?);
                (name, UnitSource::Fragment(path), parsed)
            }
            Located::SysV { name, script } => {
                let header = LsbHeader::parse(&String::from_utf8_lossy(&self.read(&script)?));
                let parsed = parse(&script, header.unit_text(&script).as_bytes());
                (name, UnitSource::SysV { script, header }, parsed)
            }
            Located::Masked { path } => {
                return Err(LoadError::Masked {
                    name: name.clone(),
                    path,
                });
            }
            Located::Dangling { target } => {
                return Err(LoadError::Dangling {
                    name: name.clone(),
                    target,
                });
            }
            Located::Nowhere => {
                return Err(LoadError::NotFound {
                    name: name.clone(),
                    // Units of sandboxes themselves are not suggested.
                    near: nearest(
                        name,
                        self.names()
                            .filter(|name| !name.prefix().ends_with("_sandbox")),
                    ),
                });
            }
        };
        let names = self.names_of(&name);
        let mut unit = Unit {
            drop_ins: self.drop_ins(&names)?,
            wants_links: self.links(&names, Subdir::Wants)?,
            requires_links: self.links(&names, Subdir::Requires)?,
            aliases: names.into_iter().skip(1).collect(),
            name,
            source,
            settings,
            warnings,
        };
        for path in &unit.drop_ins {
            let (settings, warnings) = parse(path, &self.read(path)?);
            unit.settings.append(settings);
            unit.warnings.extend(warnings);
        }
        Ok(unit)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, LoadError> {
        let fail = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        // The entry of an init script may be a link; resolve it within the root.
        let real = self::root::chase(self.root(), path).map_err(fail)?;
        fs::read(below(self.root(), &real)).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Host, name};
    use super::*;

    #[test]
    fn a_drop_in_replaces_and_adds() {
        let host = Host::new();
        host.unit(
            "web.service",
            "[Service]\nExecStart=/usr/sbin/web\nEnvironment=A=1\n",
        )
        .file(
            "etc/systemd/system/web.service.d/10-port.conf",
            "[Service]\nExecStart=\nExecStart=/usr/sbin/web -p 80\nbad\n",
        );
        let unit = host.load("web.service");
        assert_eq!(
            unit.settings.list("Service", "ExecStart"),
            ["/usr/sbin/web -p 80"]
        );
        assert_eq!(unit.settings.list("Service", "Environment"), ["A=1"]);
        assert_eq!(
            unit.drop_ins,
            [Path::new("/etc/systemd/system/web.service.d/10-port.conf")]
        );
        assert_eq!(
            unit.warnings[0].to_string(),
            "/etc/systemd/system/web.service.d/10-port.conf:4: missing '='"
        );
    }

    #[test]
    fn an_init_script_is_a_service() {
        let host = Host::new();
        host.script(
            "etc/init.d/old",
            "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: old\n# Required-Start: $network\n### END INIT INFO\n",
        )
        .file("etc/init.d/README", "no script\n")
        .script("etc/init.d/new", "#!/bin/sh\n")
        .unit("new.service", "[Service]\nExecStart=/usr/bin/new\n");
        let unit = host.load("old.service");
        assert!(
            matches!(&unit.source, UnitSource::SysV { script, .. } if script == Path::new("/etc/init.d/old"))
        );
        assert_eq!(
            unit.settings.list("Service", "ExecStart"),
            ["/etc/init.d/old start"]
        );
        assert!(matches!(
            host.load("new.service").source,
            UnitSource::Fragment(_)
        ));
        assert!(host.dirs().load(&name("README.service")).is_err());
    }

    #[test]
    fn load_errors_say_what_to_do() {
        let host = Host::new();
        host.unit("web2.service", "[Service]\nExecStart=/bin/web\n")
            .script("etc/init.d/weba", "#!/bin/sh\n");
        host.link("etc/systemd/system/off.service", "/dev/null")
            .unit("off.service", "[Service]\n");
        let error = |unit| host.dirs().load(&name(unit)).unwrap_err().to_string();
        assert_eq!(
            error("web1.service"),
            "loading unit 'web1.service': not found, did you mean 'web2.service' or 'weba.service'?"
        );
        assert_eq!(
            error("quite-other.service"),
            "loading unit 'quite-other.service': not found"
        );
        assert_eq!(
            error("off.service"),
            "loading unit 'off.service': masked by '/etc/systemd/system/off.service'"
        );
    }
}
