//! File tree of a host, for tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::load::Unit;
use super::load::dirs::UnitDirs;
use super::name::UnitName;

/// Temporary root directory; methods take paths inside it.
pub(super) struct Host(tempfile::TempDir);

impl Host {
    /// Makes a root with a merged /usr.
    pub fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for dir in ["etc/systemd/system", "usr/lib/systemd/system"] {
            fs::create_dir_all(host.root().join(dir)).unwrap();
        }
        symlink("usr/lib", host.root().join("lib")).unwrap();
        host
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Adds a unit file of a package.
    pub fn unit(&self, name: &str, text: &str) -> &Self {
        self.file(&format!("usr/lib/systemd/system/{name}"), text)
    }

    pub fn script(&self, path: &str, text: &str) -> &Self {
        self.file(path, text);
        let path = self.root().join(path.trim_start_matches('/'));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    pub fn dirs(&self) -> UnitDirs {
        UnitDirs::scan(self.root()).unwrap()
    }

    pub fn load(&self, unit: &str) -> Unit {
        self.dirs().load(&name(unit)).unwrap()
    }
}

pub(super) fn name(text: &str) -> UnitName {
    UnitName::exact(text).unwrap()
}
