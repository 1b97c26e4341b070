//! Unit search path of the system manager.
//!
//! [`UnitDirs::scan`] lists the directories once; all look-ups use that index. The
//! order of the directories and the rules for aliases, masks and drop-ins are those of
//! systemd.unit(5), "Unit File Load Path". The files are not read here, and [`super::drop_ins`] finds
//! drop-ins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::root::chase;
use crate::facts::unit::name::UnitName;
use crate::sys::path::{below, normalize};

/// Search path, highest precedence first.
const SEARCH_PATH: [&str; 13] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// Directory of init scripts, which systemd-sysv-generator(8) turns into services.
const INIT_SCRIPTS: &str = "/etc/init.d";

/// Maximum length of a chain of aliases; a longer one is a loop.
const MAX_ALIASES: usize = 16;

/// Meaning of a file with the name of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// A unit file; for a link out of the search path, its target.
    Fragment(PathBuf),
    /// An empty file or a link to `/dev/null`, at this path.
    Mask(PathBuf),
    /// A link to another name within the search path.
    Alias(UnitName),
}

/// Place of a unit's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// A unit file, with the canonical name.
    Fragment {
        /// Canonical name.
        name: UnitName,
        /// The file, as seen from the root.
        path: PathBuf,
    },
    /// An init script without a unit file.
    SysV {
        /// Canonical name.
        name: UnitName,
        /// The script, as seen from the root.
        script: PathBuf,
    },
    /// The name is masked by the file at `path`.
    Masked {
        /// The mask, as seen from the root.
        path: PathBuf,
    },
    /// The name is a link to a unit that does not exist, as a removed package may leave.
    Dangling {
        /// Target of the link.
        target: UnitName,
    },
    /// No file has this name.
    Nowhere,
}

/// A directory beside a unit file, by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subdir {
    /// `NAME.d`: drop-ins.
    DropIns,
    /// `NAME.wants`: links that act as `Wants=`.
    Wants,
    /// `NAME.requires`: links that act as `Requires=`.
    Requires,
}

impl Subdir {
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::DropIns => ".d",
            Self::Wants => ".wants",
            Self::Requires => ".requires",
        }
    }
}

/// Index of all unit files of a host.
#[derive(Debug, Clone)]
pub struct UnitDirs {
    pub(in crate::facts::unit) root: PathBuf,
    pub(in crate::facts::unit) dirs: Vec<PathBuf>,
    /// File that counts for each name.
    units: BTreeMap<UnitName, Entry>,
    /// Names such as `foo.service.d`, with the positions in `dirs` where they exist.
    pub(in crate::facts::unit) beside: BTreeMap<String, Vec<usize>>,
    scripts: BTreeMap<UnitName, PathBuf>,
}

impl UnitDirs {
    /// Lists the unit directories and the init scripts under `root`.
    ///
    /// Missing directories and dangling links are skipped.
    ///
    /// # Errors
    /// [`ScanError`] if a directory exists and cannot be listed.
    pub fn scan(root: &Path) -> Result<Self, ScanError> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for path in SEARCH_PATH {
            match chase(root, Path::new(path)) {
                // With a merged /usr, /lib/systemd/system and /usr/lib/systemd/system are one directory.
                Ok(real) if dirs.contains(&real) || !below(root, &real).is_dir() => {}
                Ok(real) => dirs.push(real),
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(ScanError {
                        path: path.into(),
                        source,
                    });
                }
            }
        }
        let mut found = Self {
            root: root.to_owned(),
            dirs: dirs.clone(),
            units: BTreeMap::new(),
            beside: BTreeMap::new(),
            scripts: BTreeMap::new(),
        };
        for (position, dir) in dirs.iter().enumerate() {
            for name in list(root, dir)? {
                found.add(position, &dir.join(&name), &name);
            }
        }
        found.add_scripts()?;
        Ok(found)
    }

    /// Returns the root directory that all paths are below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Iterates over the names of all units: unit files, aliases, masks and init scripts, without dangling links.
    pub fn names(&self) -> impl Iterator<Item = &UnitName> {
        let aliases = (self.units.iter()).filter(|(name, entry)| match entry {
            Entry::Alias(_) => !matches!(
                self.locate(name),
                Located::Dangling { .. } | Located::Nowhere
            ),
            Entry::Fragment(_) | Entry::Mask(_) => true,
        });
        aliases.map(|(name, _)| name).chain(
            self.scripts
                .keys()
                .filter(|name| !self.units.contains_key(*name)),
        )
    }

    /// Finds the definition of a unit by its own name, else by the name of its template.
    pub fn locate(&self, name: &UnitName) -> Located {
        let wanted = name;
        let mut name = name.clone();
        for _ in 0..MAX_ALIASES {
            let entry = self
                .units
                .get(&name)
                .or_else(|| self.units.get(&name.template()?));
            match entry {
                Some(Entry::Fragment(path)) => {
                    return Located::Fragment {
                        name,
                        path: path.clone(),
                    };
                }
                Some(Entry::Mask(path)) => return Located::Masked { path: path.clone() },
                Some(Entry::Alias(target)) => {
                    // `a@x -> b@` and `a@ -> b@` both mean b@x to a@x; `a@x -> a@` only adds a
                    // link, which must not be followed by its own name again.
                    let next = match name.instance() {
                        Some(instance) => target
                            .instantiate(instance)
                            .unwrap_or_else(|_| target.clone()),
                        None => target.clone(),
                    };
                    if next != name {
                        name = next;
                    } else if let Some(Entry::Fragment(path)) = self.units.get(target) {
                        return Located::Fragment {
                            name,
                            path: path.clone(),
                        };
                    } else {
                        return Located::Nowhere;
                    }
                }
                None => {
                    return match self.scripts.get(&name) {
                        Some(script) => Located::SysV {
                            script: script.clone(),
                            name,
                        },
                        None if name != *wanted => Located::Dangling { target: name },
                        None => Located::Nowhere,
                    };
                }
            }
        }
        Located::Nowhere
    }

    /// Returns the name itself, then every alias of it.
    pub fn names_of(&self, name: &UnitName) -> Vec<UnitName> {
        let mut names = vec![name.clone()];
        for (alias, entry) in &self.units {
            if !matches!(entry, Entry::Alias(_)) {
                continue;
            }
            let alias = match name.instance() {
                Some(instance) => alias
                    .instantiate(instance)
                    .unwrap_or_else(|_| alias.clone()),
                None => alias.clone(),
            };
            let leads_here = match self.locate(&alias) {
                Located::Fragment { name: target, .. } | Located::SysV { name: target, .. } => {
                    target == *name
                }
                Located::Masked { .. } | Located::Dangling { .. } | Located::Nowhere => false,
            };
            if leads_here && !names.contains(&alias) {
                names.push(alias);
            }
        }
        names
    }

    fn add(&mut self, position: usize, path: &Path, file_name: &str) {
        let dir_suffixes = [Subdir::DropIns, Subdir::Wants, Subdir::Requires].map(Subdir::suffix);
        if dir_suffixes
            .iter()
            .any(|suffix| file_name.ends_with(suffix))
        {
            self.beside
                .entry(file_name.to_owned())
                .or_default()
                .push(position);
            return;
        }
        let Ok(name) = UnitName::exact(file_name) else {
            return;
        };
        if self.units.contains_key(&name) {
            return;
        }
        if let Some(entry) = self.entry(&name, path) {
            self.units.insert(name, entry);
        }
    }

    /// Returns the meaning of the file at `path` for the unit of its name, or `None` if systemd would ignore it.
    fn entry(&self, name: &UnitName, path: &Path) -> Option<Entry> {
        if self.leads_to_null(path) {
            return Some(Entry::Mask(path.to_owned()));
        }
        if let Ok(link) = fs::read_link(below(&self.root, path)) {
            let target = normalize(&path.parent()?.join(link));
            let in_search_path =
                chase(&self.root, target.parent()?).is_ok_and(|dir| self.dirs.contains(&dir));
            let target = UnitName::exact(target.file_name()?.to_str()?).ok();
            if let Some(target) = target.filter(|target| in_search_path && target != name) {
                return (target.kind() == name.kind()).then_some(Entry::Alias(target));
            }
        }
        let real = chase(&self.root, path).ok()?;
        let meta = fs::metadata(below(&self.root, &real)).ok()?;
        match meta.is_file() {
            true if meta.len() == 0 => Some(Entry::Mask(path.to_owned())),
            true => Some(Entry::Fragment(real)),
            false => None,
        }
    }

    pub(in crate::facts::unit) fn leads_to_null(&self, path: &Path) -> bool {
        let null = Path::new("/dev/null");
        // The root of an image has no /dev, so also check the link itself.
        chase(&self.root, path).is_ok_and(|real| real == null)
            || fs::read_link(below(&self.root, path)).is_ok_and(|target| target == null)
    }

    fn add_scripts(&mut self) -> Result<(), ScanError> {
        let Ok(dir) = chase(&self.root, Path::new(INIT_SCRIPTS)) else {
            return Ok(());
        };
        for file_name in list(&self.root, &dir)? {
            // sysv_translate_name() in systemd-sysv-generator reads `foo.sh` as `foo`.
            let stem = file_name.strip_suffix(".sh").unwrap_or(&file_name);
            let Ok(name) = UnitName::exact(&format!("{stem}.service")) else {
                continue;
            };
            let Ok(script) = chase(&self.root, &dir.join(&file_name)) else {
                continue;
            };
            let Ok(meta) = fs::metadata(below(&self.root, &script)) else {
                continue;
            };
            if meta.is_file() && meta.permissions().mode() & 0o100 != 0 {
                self.scripts
                    .insert(name, Path::new(INIT_SCRIPTS).join(&file_name));
            }
        }
        Ok(())
    }
}

/// Error for a directory of units that cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("listing '{path}'")]
pub struct ScanError {
    /// The directory, as seen from the root.
    pub path: PathBuf,
    /// Error of the system call.
    pub source: io::Error,
}

/// Returns the sorted names in a directory; a name that is not UTF-8 cannot be a unit.
pub(in crate::facts::unit) fn list(root: &Path, dir: &Path) -> Result<Vec<String>, ScanError> {
    let fail = |source| ScanError {
        path: dir.to_owned(),
        source,
    };
    // A `.d` directory may be a link; a dangling one counts as absent.
    let Ok(real) = chase(root, dir) else {
        return Ok(Vec::new());
    };
    let real = below(root, &real);
    if !real.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(real).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
