//! Index of the files of all packages, for databases that list them by package.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{PackageName, canonical};

/// Directories of `/usr` that are links to another one on some hosts: `sbin` on Fedora 42 and Arch, `lib64` on Arch.
const MAYBE_LINKS: [&str; 2] = ["sbin", "lib64"];

/// Directories of a root that are links, each with its target.
#[derive(Debug, Clone, Default)]
pub(super) struct Aliases(Vec<(PathBuf, PathBuf)>);

impl Aliases {
    /// Reads the links of the root.
    pub(super) fn of(root: &Path) -> Self {
        let links = MAYBE_LINKS.iter().filter_map(|name| {
            let target = fs::read_link(root.join("usr").join(name)).ok()?;
            let usr = Path::new("/usr");
            (target.components().count() == 1).then(|| (usr.join(name), usr.join(target)))
        });
        Self(links.collect())
    }

    /// Returns the canonical spelling of a path, with the targets of links.
    fn canonical(&self, path: &Path) -> PathBuf {
        let path = canonical(path);
        let mut rest = self.0.iter().filter_map(|(link, target)| {
            let rest = path.strip_prefix(link).ok()?;
            Some(target.join(rest))
        });
        rest.next().unwrap_or(path)
    }
}

/// Files of all packages.
#[derive(Debug, Default)]
pub(super) struct FileIndex {
    aliases: Aliases,
    by_package: BTreeMap<PackageName, Vec<PathBuf>>,
    owners: BTreeMap<PathBuf, BTreeSet<PackageName>>,
    /// Directories of the first three levels, with the packages that ship files in them: unlike dpkg, rpm does not
    /// list the parents of a file.
    users: BTreeMap<PathBuf, BTreeSet<PackageName>>,
}

impl FileIndex {
    /// Makes the index of the lists.
    pub(super) fn new(by_package: BTreeMap<PackageName, Vec<PathBuf>>, aliases: Aliases) -> Self {
        let mut files = Self {
            aliases,
            by_package,
            ..Self::default()
        };
        for (name, shipped) in &files.by_package {
            for file in shipped {
                let path = files.aliases.canonical(file);
                for directory in path
                    .ancestors()
                    .filter(|directory| (2..=4).contains(&directory.components().count()))
                {
                    files
                        .users
                        .entry(directory.into())
                        .or_default()
                        .insert(name.clone());
                }
                files.owners.entry(path).or_default().insert(name.clone());
            }
        }
        files
    }

    /// Returns the files of a package, in its own spelling.
    pub(super) fn of(&self, package: &PackageName) -> &[PathBuf] {
        self.by_package.get(package).map_or(&[], Vec::as_slice)
    }

    /// Returns the packages that ship a path.
    pub(super) fn owners(&self, path: &Path) -> Vec<PackageName> {
        let owners = self.owners.get(&self.aliases.canonical(path));
        owners.into_iter().flatten().cloned().collect()
    }

    /// Returns the packages that ship a directory of the first three levels, or something in it.
    pub(super) fn users(&self, directory: &Path) -> Vec<PackageName> {
        let users = self.users.get(&self.aliases.canonical(directory));
        users.into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_behind_a_link_of_usr_has_the_owner_of_its_target() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        let index = || {
            let by_package = [
                ("new".into(), vec!["/usr/bin/new".into()]),
                ("old".into(), vec!["/usr/sbin/old".into()]),
            ];
            FileIndex::new(by_package.into(), Aliases::of(root.path()))
        };
        let owner = |index: &FileIndex, path: &str| {
            index
                .owners(Path::new(path))
                .first()
                .map(ToString::to_string)
        };
        let split = index();
        assert_eq!(owner(&split, "/usr/sbin/new"), None);
        assert_eq!(owner(&split, "/sbin/old").as_deref(), Some("old"));
        symlink("bin", root.path().join("usr/sbin")).unwrap();
        let merged = index();
        for path in ["/usr/sbin/new", "/sbin/new", "/bin/new", "/usr/bin/new"] {
            assert_eq!(owner(&merged, path).as_deref(), Some("new"), "{path}");
        }
        for path in ["/usr/sbin/old", "/usr/bin/old"] {
            assert_eq!(owner(&merged, path).as_deref(), Some("old"), "{path}");
        }
        assert_eq!(merged.users(Path::new("/usr/sbin")).len(), 2);
    }
}
