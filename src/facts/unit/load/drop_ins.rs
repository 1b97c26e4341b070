//! The directories beside a unit file: drop-ins, `.wants` and `.requires`.
//!
//! systemd.unit(5) says which of them apply. [`super`] reads the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::dirs::{ScanError, Subdir, UnitDirs, list};
use super::root::chase;
use crate::facts::unit::name::UnitName;
use crate::sys::path::below;

impl UnitDirs {
    /// The drop-ins of a unit known by `names`, in the order in which they apply.
    ///
    /// Of two files of one name the one in the directory of higher precedence counts, and a link
    /// to `/dev/null` takes the file away: systemd.unit(5).
    ///
    /// # Errors
    /// [`ScanError`] if a drop-in directory cannot be listed.
    pub fn drop_ins(&self, names: &[UnitName]) -> Result<Vec<PathBuf>, ScanError> {
        let mut by_name: BTreeMap<String, Option<PathBuf>> = BTreeMap::new();
        let mut dirs = self.subdirs(names, Subdir::DropIns);
        if let Some(name) = names.first() {
            let of_kind = format!("{}.d", name.kind().suffix());
            dirs.extend(self.in_order(&[of_kind]));
        }
        for dir in dirs {
            for name in list(&self.root, &dir)? {
                if !name.ends_with(".conf") || name.starts_with('.') || by_name.contains_key(&name)
                {
                    continue;
                }
                let real = chase(&self.root, &dir.join(&name)).ok();
                let real = real.filter(|path| below(&self.root, path).is_file());
                by_name.insert(name, real);
            }
        }
        Ok(by_name.into_values().flatten().collect())
    }

    /// The units named in the `.wants` or `.requires` directories of a unit known by `names`.
    ///
    /// # Errors
    /// [`ScanError`] if such a directory cannot be listed.
    pub fn links(&self, names: &[UnitName], subdir: Subdir) -> Result<Vec<UnitName>, ScanError> {
        let mut seen = BTreeSet::new();
        let mut units = Vec::new();
        for dir in self.subdirs(names, subdir) {
            for text in list(&self.root, &dir)? {
                let Ok(mut unit) = UnitName::exact(&text) else {
                    continue;
                };
                if let Some(instance) = names.first().and_then(UnitName::instance) {
                    unit = unit.instantiate(instance).unwrap_or(unit);
                }
                if seen.insert(unit.clone()) && !self.leads_to_null(&dir.join(&text)) {
                    units.push(unit);
                }
            }
        }
        Ok(units)
    }

    fn subdirs(&self, names: &[UnitName], subdir: Subdir) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        for name in names {
            let names: Vec<String> = more_general(name)
                .into_iter()
                .map(|name| format!("{name}{}", subdir.suffix()))
                .collect();
            for dir in self.in_order(&names) {
                if !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
        }
        dirs
    }

    /// The directories of these names: first by precedence, then by the order of the names.
    fn in_order(&self, names: &[String]) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        for (position, dir) in self.dirs.iter().enumerate() {
            let here = |name: &&String| {
                self.beside
                    .get(*name)
                    .is_some_and(|at| at.contains(&position))
            };
            dirs.extend(names.iter().filter(here).map(|name| dir.join(name)));
        }
        dirs
    }
}

/// The names whose `.d` directories also apply to a unit, the most specific first: its own, its
/// template's, and each with the prefix cut after a dash (`a-b.service`, `a-.service`).
fn more_general(name: &UnitName) -> Vec<UnitName> {
    let mut names = vec![name.clone()];
    if let Some(template) = name.template() {
        names.extend(more_general(&template));
    }
    let mut prefix = name.prefix();
    let rest = &name.as_str()[prefix.len()..];
    while let Some(dash) = prefix.trim_end_matches('-').rfind('-') {
        prefix = &prefix[..=dash];
        names.extend(UnitName::exact(&format!("{prefix}{rest}")));
    }
    names
}
