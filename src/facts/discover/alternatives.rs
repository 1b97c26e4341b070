//! Units of packages that provide a service under another name: `apache2` provides `httpd` on Debian.

use std::path::{Path, PathBuf};

use crate::facts::package::{self, PackageDb, PackageName};
use crate::facts::unit::{UnitKind, UnitName};

/// Returns a hint for a unit that does not exist, or nothing if no package provides its name.
pub(super) fn hint(root: &Path, wanted: &UnitName) -> String {
    let database = package::open(root).ok().flatten();
    let found = database.and_then(|database| find(database.as_ref(), wanted.prefix()).ok());
    let hints = found
        .unwrap_or_default()
        .into_iter()
        .map(|(package, unit)| {
            format!(
                "; package {package} provides '{}', and its unit is '{unit}'",
                wanted.prefix()
            )
        });
    hints.collect()
}

/// Returns the packages that provide a name, each with a unit of it or of a dependency from the same source.
fn find(database: &dyn PackageDb, name: &str) -> package::Result<Vec<(PackageName, UnitName)>> {
    let mut found = Vec::new();
    for provider in database.providers(name)? {
        let info = database.info(&provider)?;
        let mut units = units_of(database, &provider)?;
        for dependency in info.dependencies {
            if units.is_empty() && database.info(&dependency)?.source == info.source {
                units = units_of(database, &dependency)?;
            }
        }
        // A package has helpers beside its service, whose name is the shortest.
        units.sort_by_key(|unit| unit.as_str().len());
        found.extend(units.into_iter().next().map(|unit| (provider, unit)));
    }
    Ok(found)
}

fn units_of(database: &dyn PackageDb, package: &PackageName) -> package::Result<Vec<UnitName>> {
    let files: Vec<PathBuf> = database.files(package)?;
    let names = files
        .iter()
        .filter(|file| {
            file.parent()
                .is_some_and(|dir| dir.ends_with("systemd/system"))
        })
        .filter_map(|file| file.file_name()?.to_str());
    Ok(names
        .filter_map(|name| UnitName::exact(name).ok())
        .filter(|name| name.kind() == UnitKind::Service && !name.is_template())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_unit_of_a_package_that_provides_the_name_is_told() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join("var/lib/dpkg").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let package = |name: &str, source: &str, rest: &str| {
            format!(
                "Package: {name}\nSource: {source}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n{rest}\n"
            )
        };
        let status = [
            package("apache2", "apache2", "Provides: httpd\n"),
            package("nginx", "nginx", "Provides: httpd\nDepends: nginx-common\n"),
            package("nginx-common", "nginx", ""),
            package("other", "other", ""),
        ];
        write("status", &status.concat());
        write(
            "info/apache2.list",
            "/lib/systemd/system/apache2.service\n/lib/systemd/system/apache2@.service\n/lib/systemd/system/apache2-cache.service\n",
        );
        write(
            "info/nginx-common.list",
            "/usr/lib/systemd/system/nginx.service\n",
        );
        let hint = |name: &str| super::hint(root.path(), &UnitName::exact(name).unwrap());
        assert_eq!(
            hint("httpd.service"),
            "; package apache2 provides 'httpd', and its unit is 'apache2.service'; package nginx provides 'httpd', and its unit is \
             'nginx.service'"
        );
        assert_eq!(hint("mysqld.service"), "");
    }
}
