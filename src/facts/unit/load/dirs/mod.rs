//! The search path of the system manager: where the files of a unit are.
//!
//! The directories are listed once, by [`UnitDirs::scan`]; finding is then a matter of names. The
//! order of the directories and the rules for aliases, masks and drop-ins are those of
//! systemd.unit(5), "Unit File Load Path". The files are not read here, and [`super::drop_ins`] finds
//! drop-ins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::root::{chase, simplify, within};
use crate::facts::unit::name::UnitName;

/// The search path, highest precedence first.
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

/// Init scripts, which systemd-sysv-generator(8) makes services of.
const INIT_SCRIPTS: &str = "/etc/init.d";

/// A chain of aliases longer than this is a loop.
const MAX_ALIASES: usize = 16;

/// What a file of a unit's name is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// A unit file; for a link to a place outside of the search path, the file it leads to.
    Fragment(PathBuf),
    /// An empty file or a link to `/dev/null`, at this path.
    Mask(PathBuf),
    /// A link to another name within the search path.
    Alias(UnitName),
}

/// Where a unit's definition was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// A unit file, with the name that the aliases lead to.
    Fragment {
        /// The name proper.
        name: UnitName,
        /// The file, as seen from the root.
        path: PathBuf,
    },
    /// An init script and no unit file.
    SysV {
        /// The name proper.
        name: UnitName,
        /// The script, as seen from the root.
        script: PathBuf,
    },
    /// The name is masked by the file at `path`.
    Masked {
        /// The mask, as seen from the root.
        path: PathBuf,
    },
    /// A link of this name leads to a unit that does not exist, as a removed package leaves behind.
    Dangling {
        /// The name that the link leads to.
        target: UnitName,
    },
    /// There is nothing of this name.
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

/// An index of all unit files of a host.
#[derive(Debug, Clone)]
pub struct UnitDirs {
    pub(in crate::facts::unit) root: PathBuf,
    pub(in crate::facts::unit) dirs: Vec<PathBuf>,
    /// Of each name the file that counts.
    units: BTreeMap<UnitName, Entry>,
    /// `foo.service.d` and the like, with the positions in `dirs` that have it.
    pub(in crate::facts::unit) beside: BTreeMap<String, Vec<usize>>,
    scripts: BTreeMap<UnitName, PathBuf>,
}

impl UnitDirs {
    /// Lists the unit directories and the init scripts under `root`.
    ///
    /// Directories that are not there are left out, and so are links that lead nowhere.
    ///
    /// # Errors
    /// [`ScanError`] if a directory is there and cannot be listed.
    pub fn scan(root: &Path) -> Result<Self, ScanError> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for path in SEARCH_PATH {
            match chase(root, Path::new(path)) {
                // With a merged /usr, /lib/systemd/system is /usr/lib/systemd/system once more.
                Ok(real) if dirs.contains(&real) || !within(root, &real).is_dir() => {}
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

    /// The root the paths are under.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns all names of units: unit files, aliases, masks, and init scripts as services. Links that lead nowhere name none.
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

    /// Finds the definition of a unit: by its own name, else by that of its template.
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

    /// The name itself and then every alias that leads to it.
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

    /// What the file at `path` is to the unit of its name; `None` if systemd would pass over it.
    fn entry(&self, name: &UnitName, path: &Path) -> Option<Entry> {
        if self.leads_to_null(path) {
            return Some(Entry::Mask(path.to_owned()));
        }
        if let Ok(link) = fs::read_link(within(&self.root, path)) {
            let target = simplify(&path.parent()?.join(link));
            let in_search_path =
                chase(&self.root, target.parent()?).is_ok_and(|dir| self.dirs.contains(&dir));
            let target = UnitName::exact(target.file_name()?.to_str()?).ok();
            if let Some(target) = target.filter(|target| in_search_path && target != name) {
                return (target.kind() == name.kind()).then_some(Entry::Alias(target));
            }
        }
        let real = chase(&self.root, path).ok()?;
        let meta = fs::metadata(within(&self.root, &real)).ok()?;
        match meta.is_file() {
            true if meta.len() == 0 => Some(Entry::Mask(path.to_owned())),
            true => Some(Entry::Fragment(real)),
            false => None,
        }
    }

    pub(in crate::facts::unit) fn leads_to_null(&self, path: &Path) -> bool {
        let null = Path::new("/dev/null");
        // The root of an image has no /dev, so the link itself is looked at too.
        chase(&self.root, path).is_ok_and(|real| real == null)
            || fs::read_link(within(&self.root, path)).is_ok_and(|target| target == null)
    }

    fn add_scripts(&mut self) -> Result<(), ScanError> {
        let Ok(dir) = chase(&self.root, Path::new(INIT_SCRIPTS)) else {
            return Ok(());
        };
        for file_name in list(&self.root, &dir)? {
            // sysv_translate_name() of systemd-sysv-generator takes `foo.sh` for `foo`.
            let stem = file_name.strip_suffix(".sh").unwrap_or(&file_name);
            let Ok(name) = UnitName::exact(&format!("{stem}.service")) else {
                continue;
            };
            let Ok(script) = chase(&self.root, &dir.join(&file_name)) else {
                continue;
            };
            let Ok(meta) = fs::metadata(within(&self.root, &script)) else {
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

/// A directory of units that cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("listing '{path}'")]
pub struct ScanError {
    /// The directory, as seen from the root.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The names in a directory, sorted; those that are not UTF-8 are no unit's.
pub(in crate::facts::unit) fn list(root: &Path, dir: &Path) -> Result<Vec<String>, ScanError> {
    let fail = |source| ScanError {
        path: dir.to_owned(),
        source,
    };
    // A `.d` may be a link, and a link to a place that is not there is as good as none.
    let Ok(real) = chase(root, dir) else {
        return Ok(Vec::new());
    };
    let real = within(root, &real);
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
